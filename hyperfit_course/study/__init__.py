"""A study: models trained in different ways (arms), what is measured of them, and rows that are recorded."""
