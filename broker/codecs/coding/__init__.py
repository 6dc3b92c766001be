"""Coders that the codecs are built from: integers and small floats in few bits."""
