"""Decides which run a standing device takes part in next, from what servers publish; no clock, no socket."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple

from broker.wire.messages import Message, RunScenario, RunState

AT_WORK = ("running", "gathering")
"""Phases in which a server wants devices."""

MAX_RUNS = 256
"""Runs of which a device keeps what it heard; of more, it forgets the one it heard of first."""


class Offer(NamedTuple):
    """A run that wants devices.

    Attributes:
        run: its name.
        packed: its scenario as published.
        server: the incarnation of its server.
    """

    run: str
    packed: bytes
    server: int


@dataclass(slots=True)
class _Known:
    state: RunState | None = None
    packed: bytes = b""
    refused: Offer | None = None  # what was tried last and is not tried again
    said: set[str] = field(default_factory=set)


class Chooser:
    """Decides which run a device takes part in next.

    A run that could not be taken part in is left out until its scenario or its server is another.

    Args:
        only: the one run that counts; empty: all that are heard of.
    """

    def __init__(self, only: str = "") -> None:
        self._only = only
        self._runs: OrderedDict[str, _Known] = OrderedDict()

    def heard(self, run: str, message: Message) -> None:
        """Take what a run's server has published: its state or its scenario."""
        if isinstance(message, RunState):
            self._known(run).state = message
        elif isinstance(message, RunScenario):
            self._known(run).packed = message.packed

    def cleared(self, run: str) -> None:
        """Take note that nothing is published of a run any more."""
        self._runs.pop(run, None)

    def begin(self) -> None:
        """Forget what was published, as it is heard again from the start; what was refused is kept."""
        for known in self._runs.values():
            known.state, known.packed = None, b""

    def next(self) -> Offer | None:
        """Give the run to take part in: one that is under way before one that begins, then by name."""
        offers = [
            (AT_WORK.index(known.state.phase), Offer(run, known.packed, known.state.server))
            for run, known in self._runs.items()
            if known.state is not None and known.state.phase in AT_WORK and known.packed
        ]
        return min((offer for offer in offers if not self._is_refused(offer[1])), default=(0, None))[1]

    def refuse(self, offer: Offer) -> None:
        """Leave this offer out from now on."""
        self._known(offer.run).refused = offer

    def is_news(self, run: str, why: str) -> bool:
        """Tell whether this has not been said of a run yet."""
        said = self._known(run).said
        if why in said or len(said) >= MAX_RUNS:
            return False
        said.add(why)
        return True

    def _is_refused(self, offer: Offer) -> bool:
        return bool(self._only and offer.run != self._only) or self._runs[offer.run].refused == offer

    def _known(self, run: str) -> _Known:
        if run not in self._runs and len(self._runs) >= MAX_RUNS:
            self._runs.popitem(last=False)
        return self._runs.setdefault(run, _Known())
