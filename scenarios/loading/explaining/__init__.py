"""Says in words what is wrong with a scenario file, and what to write instead."""
