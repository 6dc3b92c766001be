"""Computes ahead of virtual time what many devices will answer, in runs that train nothing."""
