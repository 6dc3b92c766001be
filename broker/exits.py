"""Exit codes of all commands, and which one belongs to the reason for which a run ended."""

from enum import IntEnum

COMPLETE = "complete"
STOPPED = "stopped"
ENDED = "stopped for good"
SUPERSEDED = "superseded"
ANOTHER_SERVER = "another server"
DIVERGED = "diverged"
"""Reasons for which a run ends for one side; that of a run that diverged goes on after a colon."""


class Exit(IntEnum):
    """What became of a command. The numbers are stable: service managers and scripts read them."""

    COMPLETE = 0
    """All was done."""
    BUG = 1
    """An error in fedlite; or one of many runs failed."""
    CONFIGURATION = 2
    """A mistake in options, scenario, files or data, or a device that does not fit the run."""
    AUTHENTICATION = 3
    """The broker refuses the user, the password, the certificate or a topic."""
    UNREACHABLE = 4
    """No broker answers, or no server where one is asked for."""
    SUPERSEDED = 5
    """Another server has taken the run over; this one applied nothing more."""
    ANOTHER_SERVER = 6
    """Another server is at work on the run; this one did not begin."""
    DIVERGED = 7
    """The training came to numbers that are not finite."""
    ENDED = 8
    """`fedlite stop` ended the run before its last round."""
    STOPPED = 130
    """Ctrl-C or SIGTERM (128 + SIGINT, as shells count); a run goes on when its server is started again."""
    NO_READER = 141
    """Nobody reads the output any more, as after `| head` (128 + SIGPIPE, as shells count)."""


_BY_REASON = {
    COMPLETE: Exit.COMPLETE,
    STOPPED: Exit.STOPPED,
    ENDED: Exit.ENDED,
    SUPERSEDED: Exit.SUPERSEDED,
    ANOTHER_SERVER: Exit.ANOTHER_SERVER,
    DIVERGED: Exit.DIVERGED,
}

EPILOG = (
    "Exit codes: 0 complete, 1 a bug or a failed run among many, 2 configuration, 3 authentication, "
    "4 unreachable, 5 superseded by another server, 6 another server is at work, 7 diverged, "
    "8 ended by `fedlite stop`, 130 stopped by Ctrl-C or SIGTERM, "
    "141 nobody reads the output (`| head`)."
)
"""Stands below the help of every command."""


def exit_of(reason: str) -> Exit:
    """Give the exit code for the reason for which a run ended; CONFIGURATION for one that is not in the list.

    Args:
        reason: of a summary, or of a client; what follows a colon is for people.
    """
    return _BY_REASON.get(reason.partition(":")[0], Exit.CONFIGURATION)
