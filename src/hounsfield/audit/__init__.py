"""A hash-chained log: what was decided, on what, and that nobody has changed it since."""
