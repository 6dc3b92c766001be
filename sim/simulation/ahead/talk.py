"""What the server says to many devices at one time, and what they answer."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from broker.machine.actions import Compute
from broker.wire.messages import BatchUp, HeadUpdate
from edge_client.actions import ClientAction
from edge_client.jobs import ClientJob
from sim.network.endpoint import InFlight
from sim.network.links.many_links import Numbers
from sim.simulation.ahead.states import State
from sim.simulation.ahead.tables import Kept

Places = NDArray[np.int64]


class Talk:
    """What the server says to k devices at one time, and what they answer.

    Args:
        numbers: of the devices in the fleet; these are their columns in the tables, too.
        told: to the first of them; to all others the same, on their own topics.
        job: that follows, for the first one.
        answer: that on its way; its topic is that of the first device.
        after: state of their state machines when they have answered.
        heard: when the message began to leave for each device, arrived, and the job is done; shape (k,).
        went: when the answer began to leave, had left, and arrives at the broker.
        uplinks: before.
        kind: of the devices, see Rest.kinds.
        traced: places of those that the trace shows, and its lanes.

    Attributes:
        order: places in the order of arrival, and `times_s` of arrival; `next` is the first one of both that
            has not arrived.
        goes_on: who was not woken.
        heard: whose message has arrived, as far as bytes are counted.
        sent: whose answer has begun to leave, as far as that is counted.
        counted: so many arrivals are counted.
        counted_s: until when it was counted.
    """

    def __init__(
        self,
        numbers: Sequence[int],
        told: InFlight,
        job: ClientJob,
        answer: InFlight,
        after: State,
        heard: tuple[Numbers, Numbers, Numbers],
        went: tuple[Numbers, Numbers, Numbers],
        uplinks: Kept,
        kind: int,
        traced: Mapping[int, int],
    ) -> None:
        self.numbers, self.columns = numbers, np.array(numbers)
        self.told, self.job, self.answer = told, job, answer
        self.after = after
        self.began_s, self.heard_s, self.done_s = heard
        self.left_s, self.sent_s, self.arrival_s = went
        self.uplinks, self.kind, self.traced = uplinks, kind, traced
        order = np.argsort(self.arrival_s)
        self.order: list[int] = order.tolist()
        self.times_s: list[float] = self.arrival_s[order].tolist()
        self.next = self.counted = 0
        self.counted_s = -1.0
        count = len(numbers)
        self.goes_on = np.ones(count, dtype=bool)
        self.heard, self.sent = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)

    @functools.cached_property
    def places(self) -> dict[int, int]:
        """Give the place of each device, by its number."""
        return {number: place for place, number in enumerate(self.numbers)}

    @property
    def result(self) -> BatchUp | HeadUpdate:
        """What each device says."""
        message = self.answer.publish.message
        assert isinstance(message, BatchUp | HeadUpdate)
        return message

    @property
    def is_over(self) -> bool:
        """Whether all answers have arrived."""
        return self.next == len(self.order)

    @property
    def next_s(self) -> float:
        """When the next answer arrives."""
        return self.times_s[self.next]

    def hears(self, now_s: float) -> Places:
        """Give those who have heard until now, and were not given before."""
        return self._new(self.heard, self.heard_s, now_s)

    def sends(self, now_s: float) -> Places:
        """Give those whose answer has begun to leave, and who were not given before."""
        return self._new(self.sent, self.done_s, now_s)

    def arrives(self) -> Places:
        """Give those whose answer has arrived, and who were not given before; in the order of arrival."""
        places = np.array(self.order[self.counted : self.next], dtype=np.int64)
        self.counted = self.next
        return places[self.goes_on[places]]

    def _new(self, known: NDArray[np.bool_], at_s: Numbers, now_s: float) -> Places:
        new = (at_s <= now_s) & self.goes_on & ~known
        known |= new
        return np.flatnonzero(new)


def job_of(actions: list[ClientAction]) -> ClientJob | None:
    """Give the job if that is all that is asked for."""
    if len(actions) == 1 and isinstance(actions[0], Compute):
        return actions[0].job
    return None
