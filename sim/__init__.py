"""Virtual time, experiments, and the `fedlite` command."""
