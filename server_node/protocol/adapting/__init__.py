"""Codecs that follow links: what is measured of a client, and which rung of the ladder it gets."""
