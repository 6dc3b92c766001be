"""Codecs that see the shapes of a head's parameters."""
