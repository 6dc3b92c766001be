"""The command `fedlite`: its table of commands, options that several have, and how they speak to people."""
