"""What can go wrong, as one tree.

Exception
├── UserError               a person can mend it: the command line tells it in one line, exit code 2
│   ├── BrokerError         a broker that cannot be used, or a transport that was left
│   │   ├── RefusedError    the broker refuses us, exit code 3
│   │   └── UnreachableError  nobody answers, exit code 4
│   ├── RunError            a run folder, checkpoint or journal that cannot be used
│   │   ├── AnotherServerError  another server works in the run folder, exit code 6
│   │   └── CannotGoOnError   what the run folder has cannot be gone on from; --fresh begins anew
│   ├── ReportError         run folders that no report can be made of
│   ├── StudyError          a study or sweep that cannot be run as asked
│   ├── MissingExtraError   a package that an extra brings is not installed (broker.cli.extras)
│   ├── MemoryLimitError    a device with too little memory (edge_client.memory)
│   ├── CompanionError      a process that should be at work beside a measurement is not
│   └── ScenarioError       a mistake in a scenario, or data that it needs (scenarios.errors)
└── ValueError
    └── WireError           bytes from outside that break the protocol (broker.wire.errors): counted, answered

Everything else (ValueError and TypeError of numpy, torch and our own code) is a bug. It keeps its traceback,
and the command line says where to report it.
"""

from typing import ClassVar

from broker.exits import Exit

__all__ = [
    "AnotherServerError", "BrokerError", "CannotGoOnError", "RefusedError", "ReportError", "RunError",
    "StudyError", "UnreachableError", "UserError",
]  # fmt: skip


class UserError(Exception):
    """Something is wrong that the person at the command line can mend.

    The text is for that person: what is wrong, where, and what to do. One line per problem.
    """

    exit: ClassVar[Exit] = Exit.CONFIGURATION
    """Exit code of a command that ends with it."""


class BrokerError(UserError):
    """There is no broker, the broker refuses us, or the transport has been left."""


class RefusedError(BrokerError):
    """The broker refuses the user, the password, or a topic; or its certificate is not trusted."""

    exit = Exit.AUTHENTICATION


class UnreachableError(BrokerError):
    """No broker answers at the address, or no server answers at the broker."""

    exit = Exit.UNREACHABLE


class RunError(UserError):
    """A run folder, a checkpoint, a journal or an option of a run that cannot be used as it is."""


class AnotherServerError(RunError):
    """Another server works in the run folder."""

    exit = Exit.ANOTHER_SERVER


class CannotGoOnError(RunError):
    """What a run folder has is of another scenario, of another kind of run, of other code, or damaged."""


class ReportError(UserError):
    """A folder or file of which no report can be made."""


class StudyError(UserError):
    """A study or sweep that cannot be run as it was asked for."""
