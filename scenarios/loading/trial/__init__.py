"""Tries a task: its model, with rows of its data."""
