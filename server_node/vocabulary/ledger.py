"""Byte accounting: every message of the run, seen where all of them pass, at the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from broker.codecs import Codec
from broker.wire.messages import (
    Activations,
    Assignment,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Message,
)
from broker.wire.round_messages import BatchAlong

FLOWS = ("activations_up", "gradient_down", "head_update_up", "head_state_down")
U_SHAPE_FLOWS = ("features_down", "feature_gradient_up")
"""Further ones, of method u_shape only."""
UP = tuple(name for name in (*FLOWS, *U_SHAPE_FLOWS) if name.endswith("_up"))
DOWN = tuple(name for name in (*FLOWS, *U_SHAPE_FLOWS) if name.endswith("_down"))
CONTROL = "control"
"""Hello, Ask, Progress, Status, RunState and the like: what belongs to no flow."""

_NO_FLOW = (CONTROL, "")
_FLOW_OF = {
    Activations: ("activations_up", "payload"),
    Gradient: ("gradient_down", "payload"),
    Features: ("features_down", "payload"),
    FeatureGradient: ("feature_gradient_up", "payload"),
    HeadUpdate: ("head_update_up", "payload"),
    Assignment: ("head_state_down", "head"),
}
"""The flow of a message, and the field that carries its tensor."""


@dataclass(slots=True)
class Flow:
    """What one flow has carried.

    Attributes:
        messages: MQTT messages, repetitions included; of several tensors in one it counts for the head's.
        payload_bytes: encoded tensors, repetitions included.
        wire_bytes: whole PUBLISH packets: header, topic, envelope, targets, payload; repetitions included.
            Of batches that come with a head update payload and targets alone.
        raw_float32_bytes: the same tensors as plain float32, each counted once.
    """

    messages: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    raw_float32_bytes: int = 0


@dataclass(slots=True)
class Rung:
    """What went on with one rung of `flows.adaptive`.

    Attributes:
        answered: rounds of clients that ended with a head update.
        late: rounds of clients, and evaluations on them, that ended because they were not waited for.
        payload_bytes: encoded tensors, both ways, of all that was answered; repetitions are not counted.
    """

    answered: int = 0
    late: int = 0
    payload_bytes: int = 0


@dataclass(slots=True)
class Ledger:
    """Totals of a run.

    Attributes:
        flows: by name, FLOWS and CONTROL; in a U-shape also U_SHAPE_FLOWS.
        rejected: messages refused, by reason.
        refusals: the same messages, by sender.
        refused_of: of each client the last refusal in words; all that are not in the fleet are "strangers".
        sent: messages the server published.
        received: messages of clients that could be read.
        duplicates: messages whose effect had already been had.
        discarded_late: answers that came after their round had closed.
        paper_bits: activations in the paper's accounting with 64-bit floats, before and after.
        links_up: bytes on the devices' links, see broker.wire.link_bytes; 0 where nobody models them.
        links_down: the same in the other direction.
        rungs: of the ladder of `flows.adaptive`, the finest first; none without one.
    """

    flows: dict[str, Flow] = field(default_factory=lambda: {name: Flow() for name in (*FLOWS, CONTROL)})
    rejected: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    refused_of: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    duplicates: int = 0
    discarded_late: int = 0
    paper_bits: list[float] = field(default_factory=lambda: [0.0, 0.0])
    links_up: int = 0
    links_down: int = 0
    rungs: list[Rung] = field(default_factory=list)

    def expect_features(self) -> None:
        """Have the flows of a U-shape, even while nothing was sent in them."""
        names = (*FLOWS, *U_SHAPE_FLOWS, CONTROL)
        self.flows = {name: self.flows.get(name, Flow()) for name in names}

    def expect_rungs(self, count: int) -> None:
        """Have a place for each rung of a ladder, even while none was chosen."""
        self.rungs += [Rung() for _ in range(count - len(self.rungs))]

    def publish(self, message: Message, message_wire_bytes: int, times: int = 1) -> None:
        """Count a message that the server publishes, to so many clients."""
        self.sent += times
        self._count(message, message_wire_bytes, times)

    def receive(self, message: Message, message_wire_bytes: int, times: int = 1) -> None:
        """Count a message that a client published, or so many clients."""
        self.received += times
        self._count(message, message_wire_bytes, times)

    def receive_undecodable(self, message_wire_bytes: int) -> None:
        """Count bytes that are no message; which flow they were meant for is not known."""
        flow = self.flows[CONTROL]
        flow.messages += 1
        flow.wire_bytes += message_wire_bytes

    def reject(self, sender: str, reason: str, detail: str) -> None:
        """Count a message that was refused; the last refusal of each sender is kept in words."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
        self.refusals[sender] = self.refusals.get(sender, 0) + 1
        self.refused_of[sender] = detail

    def tensor(self, flow: str, n: int, d: int) -> None:
        """Count a tensor of shape (n, d) that took effect."""
        self.flows[flow].raw_float32_bytes += 4 * n * d

    def exchange(
        self, codec: Codec, batch: Activations, d: int, features: int = 0, *, learns: bool = True
    ) -> None:
        """Count a batch that took effect, and the gradient that answers it, in rows of d values.

        A frozen head, which does not learn, is answered without one. In a U-shape there are also features and
        their gradient, in rows of so many values.
        """
        for flow in ("activations_up", "gradient_down") if learns else ("activations_up",):
            self.tensor(flow, batch.count, d)
        for flow in U_SHAPE_FLOWS if features else ():
            self.tensor(flow, batch.count, features)
        self.paper(codec, batch.count, d, len(batch.payload))

    def paper(self, codec: Codec, n: int, d: int, payload_bytes: int) -> None:
        """Count activations of shape (n, d) the way the paper does, see `Codec.paper_bits`."""
        self.paper_bits[0] += 64 * n * d
        self.paper_bits[1] += codec.paper_bits(n, d, payload_bytes)

    def _count(self, message: Message, message_wire_bytes: int, times: int) -> None:
        name, tensor = _FLOW_OF.get(type(message), _NO_FLOW)
        if name not in self.flows:  # a stranger's: the run has no such flow
            name, tensor = _NO_FLOW
        flow = self.flows[name]
        flow.messages += times
        flow.wire_bytes += times * message_wire_bytes
        if isinstance(message, HeadUpdate):
            self._count_along(flow, message.batches, times)
        if tensor:
            flow.payload_bytes += times * len(getattr(message, tensor))

    def _count_along(self, flow: Flow, batches: Sequence[BatchAlong], times: int) -> None:
        """Move the bytes of batches that came with a head update to the flow of activations."""
        up = self.flows["activations_up"]
        for _, payload, targets in batches:
            up.payload_bytes += times * len(payload)
            up.wire_bytes += times * (len(payload) + len(targets))
            flow.wire_bytes -= times * (len(payload) + len(targets))
