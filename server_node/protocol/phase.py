"""How far a run has come."""

from enum import Enum, auto
from typing import Literal


class Phase(Enum):
    """How far the run has come."""

    STARTING = auto()
    """The connection to the broker has not stood yet."""
    GATHERING = auto()
    """The whole fleet is waited for."""
    LATE = auto()
    """The fleet had its time; a cohort is enough to begin."""
    RUNNING = auto()
    FINISHED = auto()

    @property
    def is_gathering(self) -> bool:
        """Whether the first round has not begun."""
        return self in (Phase.STARTING, Phase.GATHERING, Phase.LATE)

    @property
    def on_the_wire(self) -> Literal["gathering", "running", "finished"]:
        """What clients are told."""
        match self:
            case Phase.RUNNING:
                return "running"
            case Phase.FINISHED:
                return "finished"
            case _:
                return "gathering"
