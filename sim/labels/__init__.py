"""Shows how a scenario divides its data: which client has how many rows of which class."""
