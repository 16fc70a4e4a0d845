"""What the command ``hyperfit`` can do: one module a subcommand, and the parser that they share."""
