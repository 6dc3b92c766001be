"""What can go wrong, as one tree.

Exception
├── UserError               a person can mend it: the command line tells it in one line, exit code 2
│   ├── BrokerError         no broker, a broker that refuses us, or a transport that was left
│   ├── RunError            a run folder, checkpoint or journal that cannot be used
│   ├── ReportError         run folders that no report can be made of
│   ├── StudyError          a study or sweep that cannot be run as asked
│   └── ScenarioError       a mistake in a scenario, or data that it needs (scenarios.errors)
└── ValueError
    └── WireError           bytes from outside that break the protocol (broker.wire.errors): counted, answered

Everything else (ValueError and TypeError of numpy, torch and our own code) is a bug. It keeps its traceback,
and the command line says where to report it.
"""

__all__ = ["BrokerError", "ReportError", "RunError", "StudyError", "UserError"]


class UserError(Exception):
    """Something is wrong that the person at the command line can mend.

    The text is for that person: what is wrong, where, and what to do. One line per problem.
    """


class BrokerError(UserError):
    """There is no broker, the broker refuses us, or the transport has been left."""


class RunError(UserError):
    """A run folder, a checkpoint, a journal or an option of a run that cannot be used as it is."""


class ReportError(UserError):
    """A folder or file of which no report can be made."""


class StudyError(UserError):
    """A study or sweep that cannot be run as it was asked for."""
