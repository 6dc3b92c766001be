"""`python -m sim` is `fedlite`."""

from sim.cli import main

main()
