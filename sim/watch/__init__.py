"""A live run seen from anywhere: what the broker keeps of it, in a terminal or as a page."""
