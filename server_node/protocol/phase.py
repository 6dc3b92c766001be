"""How far a server has come with its run."""

from enum import Enum, auto
from functools import cached_property
from typing import Literal

from server_node.vocabulary.plan import Plan


class Phase(Enum):
    """How far a server has come with its run."""

    STARTING = auto()
    """It has not taken charge: the connection does not stand yet, or another server may be at work."""
    GATHERING = auto()
    """The whole fleet is waited for."""
    LATE = auto()
    """The fleet had its time; a cohort is enough to begin."""
    RUNNING = auto()
    PAUSED = auto()
    """It was stopped; clients wait for the next start."""
    FINISHED = auto()
    LEFT = auto()
    """Another server is in charge."""

    @property
    def is_gathering(self) -> bool:
        """Whether the first round has not begun."""
        return self in (Phase.STARTING, Phase.GATHERING, Phase.LATE)

    @cached_property  # it is asked with every event
    def is_over(self) -> bool:
        """Whether this server does nothing any more."""
        return self in (Phase.PAUSED, Phase.FINISHED, Phase.LEFT)

    @property
    def on_the_wire(self) -> Literal["gathering", "running", "paused", "finished"]:
        """What clients are told."""
        match self:
            case Phase.RUNNING:
                return "running"
            case Phase.PAUSED:
                return "paused"
            case Phase.FINISHED:
                return "finished"
            case _:
                return "gathering"

    def may_begin(self, plan: Plan, online: int, empty: int) -> bool:
        """Say whether the next round may begin.

        Args:
            plan: says who may come.
            online: so many clients are there with samples.
            empty: and so many without.
        """
        match self:
            case _ if not online:
                return False
            case Phase.RUNNING:
                return True
            case Phase.LATE:
                return online >= min(plan.cohort, len(plan.clients) - empty)
            case _:
                return online + empty >= len(plan.clients)
