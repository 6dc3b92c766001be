"""`python -m sim` is `fedlite`."""

from sim.commands.cli import main

main()
