"""The `fedlite` command."""
