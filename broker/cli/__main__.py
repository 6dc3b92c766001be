"""The program `fedlite`, which is also `python -m broker.cli`."""

from broker.stopping import end_on_signals


def main() -> None:
    """Run the command line; from the first line on, Ctrl-C ends it with exit code 130."""
    end_on_signals()
    from broker.cli.commands import app  # noqa: PLC0415  takes a moment, in which a signal may come
    from broker.cli.output import ending_without_a_reader  # noqa: PLC0415  as above

    with ending_without_a_reader():
        app()


if __name__ == "__main__":
    main()
