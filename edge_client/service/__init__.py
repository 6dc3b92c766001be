"""A device as a service of its machine: it waits for runs, is installed, checked, updated and removed."""
