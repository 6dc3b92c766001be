"""Data sets: where those that can be fetched come from, and the forms in which they are read."""
