"""The program `fedlite`, which is also `python -m sim`."""

from broker.stopping import end_on_signals


def main() -> None:
    """Run the command line; from the first line on, Ctrl-C ends it with exit code 130."""
    end_on_signals()
    from sim.commands.cli import main as command_line  # noqa: PLC0415  takes seconds, in which a signal may come

    command_line()


if __name__ == "__main__":
    main()
