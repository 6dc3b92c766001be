"""Runs a scenario in virtual time."""
