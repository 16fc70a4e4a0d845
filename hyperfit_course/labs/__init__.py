"""The labs: each module is one short study of a neighbouring result, and imports no other but what labs share."""
