"""What the server says to many devices at one time, and what they answer."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from broker.machine.actions import Compute
from broker.wire.messages import BatchUp, HeadUpdate
from edge_client.actions import ClientAction
from edge_client.jobs import BackwardStep, ClientJob
from sim.network.endpoint import InFlight
from sim.network.links.many_links import Columns, Numbers
from sim.simulation.ahead.device import Device

Places = NDArray[np.int64]


class Talk(msgspec.Struct, eq=False):
    """What the server says to k devices at one time, and what they answer.

    Attributes:
        devices: they.
        columns: theirs in the tables.
        told: to the first of them; to all others the same, on their own topics.
        jobs: that follow.
        result: of each job, and what each device says.
        answer: that on its way; its topic is that of the first device.
        began_s: when each message began to leave for its device, shape (k,) as all that follows.
        heard_s: when it arrived.
        done_s: when the job is done.
        left_s: when the answer began to leave.
        sent_s: when it had left.
        arrival_s: when it arrives at the broker.
        before: uplinks before, see ManyLinks.copy.
        jitter: states of their streams before.
        traced: places of those that the trace shows, and its lanes.
        order: places in the order of arrival, and `times_s` of arrival; `next` is the first one of both that
            has not arrived.
        goes_on: whose links were not given back.
        heard: whose message has arrived, as far as bytes are counted.
        sent: whose answer has begun to leave, as far as that is counted.
        counted: so many arrivals are counted.
        counted_s: until when it was counted.
    """

    devices: Sequence[Device]
    columns: Columns
    told: InFlight
    jobs: Sequence[ClientJob]
    result: BatchUp | HeadUpdate
    answer: InFlight
    began_s: Numbers
    heard_s: Numbers
    done_s: Numbers
    left_s: Numbers
    sent_s: Numbers
    arrival_s: Numbers
    before: Numbers
    jitter: Sequence[int]
    traced: Mapping[int, int]
    order: Sequence[int] = ()
    times_s: Sequence[float] = ()
    next: int = 0
    goes_on: NDArray[np.bool_] = msgspec.field(default_factory=lambda: np.zeros(0, dtype=bool))
    heard: NDArray[np.bool_] = msgspec.field(default_factory=lambda: np.zeros(0, dtype=bool))
    sent: NDArray[np.bool_] = msgspec.field(default_factory=lambda: np.zeros(0, dtype=bool))
    counted: int = 0
    counted_s: float = -1.0

    def __post_init__(self) -> None:
        count = len(self.devices)
        order = np.argsort(self.arrival_s)
        self.order, self.times_s = order.tolist(), self.arrival_s[order].tolist()
        self.goes_on = np.ones(count, dtype=bool)
        self.heard, self.sent = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        for place, device in enumerate(self.devices):
            device.talk, device.place = self, place

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


def are_alike(job: ClientJob, other: ClientJob) -> bool:
    """Say whether jobs that follow from one message take a device as long, and give the same."""
    if isinstance(job, BackwardStep) and isinstance(other, BackwardStep):
        return job.last is other.last
    return type(job) is type(other)
