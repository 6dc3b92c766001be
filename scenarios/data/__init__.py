"""Data sets that can be fetched: where they come from, and the compact form that tasks read."""
