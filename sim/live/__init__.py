"""Runs a scenario in real time on this machine."""
