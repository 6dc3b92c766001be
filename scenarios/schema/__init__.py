"""What may stand in a scenario file, as types."""
