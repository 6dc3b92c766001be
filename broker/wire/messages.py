"""The messages; broker.wire.packing makes bytes of them.

Fields are only ever appended, each with a default. docs/protocol.md gives the bytes.
"""

from enum import IntEnum
from typing import Literal

import msgspec

from broker.wire.fields import Count, Incarnation, Round, Session, Step, TargetSpecs, Text, Word
from broker.wire.round_messages import (
    Activations,
    Assignment,
    BatchDown,
    BatchUp,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Scores,
)

__all__ = [
    "VERSION",
    "Activations",
    "AmongServers",
    "Ask",
    "Assignment",
    "BatchDown",
    "BatchUp",
    "Claim",
    "FeatureGradient",
    "Features",
    "FromClient",
    "FromServer",
    "Gradient",
    "HeadUpdate",
    "Hello",
    "Message",
    "Progress",
    "Rejected",
    "Released",
    "RunScenario",
    "RunState",
    "Scores",
    "Standing",
    "Status",
    "StopRun",
    "Welcome",
]

VERSION = 3


class Standing(IntEnum):
    """How far a client is with what the server said last."""

    MISSING = 0
    """It has not got it."""
    WORKING = 1
    """It computes the answer."""
    ANSWERED = 2
    """It has sent the answer."""
    REFUSED = 3
    """It cannot use it."""


class Hello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A client is ready; sent after every connection, and whenever the server has a new incarnation.

    Attributes:
        session: of the connection it is sent on.
        scenario: digest of what both sides must agree upon. Empty: it has none and wants a Welcome.
        samples: training samples on the device; one that has none is not chosen for rounds.
        wants_welcome: the client knows neither the settings nor the initial head; see Welcome.
        package: version of the client's software.
        model: fingerprint of the task's code (scenarios.fingerprint), the server's; empty: it has none.
        held_out: further samples on the device, which are kept for evaluation.
        rows: of the head's parameter tensors that its samples need, see broker.codecs.heads.matrices; empty:
            all, or the client does not say.
    """

    session: Session
    scenario: Word
    samples: Count
    wants_welcome: bool = False
    package: Word = ""
    model: Word = ""
    held_out: Count = 0
    rows: bytes = b""


class Status(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A client's presence, retained; `online=False` is the last will of the connection `session`."""

    online: bool
    session: Session


class RunState(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The run's state, retained.

    Attributes:
        phase: what the server does. `paused`: it was stopped and may be started again; `away` says the same
            and is the server's last will.
        server: the incarnation; clients greet each one once.
        token: random; tells apart two servers of one incarnation.
        round: the round under way.
        rounds: how many there will be.
        reason: why it finished or paused.
    """

    phase: Literal["gathering", "running", "paused", "away", "finished"]
    server: Incarnation
    token: Count = 0
    round: Round = 0
    rounds: Round = 0
    reason: Text = ""


class Rejected(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """A message of the client was refused; `reason` is a stable word, `detail` is for people."""

    reason: Word
    detail: Text = ""


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """The server asks a client that is silent how far it is; the client answers with Progress.

    Attributes:
        server: the incarnation that asks.
        number: comes back in the answer.
        round: the round that the client is in.
        step: the step that it owes, see Progress.
        resend: the server knows that the client's answer was lost: send it again, instead of Progress.
    """

    server: Incarnation
    number: Count
    round: Round
    step: Step
    resend: bool = False


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """How far a client is; answers Ask, and is said unasked when a message of the server cannot be used.

    Attributes:
        server: the incarnation that asked.
        number: that of the Ask; 0 when unasked.
        round: the round that the client is in; 0 if in none.
        step: the step that the client is at: 0 after the Assignment, s + 1 after the Gradient or Features of
            step s.
        standing: of that step; MISSING when the client has not got what the Ask takes it to have.
    """

    server: Incarnation
    number: Count
    round: Round
    step: Step
    standing: Standing


class Released(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """The round goes on without the client, which stops working for it.

    Attributes:
        server: the incarnation that says this.
        round: of the Assignment that is void now; 0 when none is, and the client only has to greet.
        greet: the client must say Hello before it is chosen again.
    """

    server: Incarnation
    round: Round
    greet: bool


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """What a client must know that has neither scenario nor the task's code; answers a Hello that wants it.

    Attributes:
        server: the incarnation that says this.
        batch_size: samples in a batch, fewer if the client has fewer.
        local_steps: batches a round.
        cut_size: d, values of one sample at the cut.
        classes: targets are integers below it; 0 if they are no integers of a fixed length, see `targets`.
        targets_per_sample: integers in one target.
        packet_bytes: largest payload of an MQTT packet.
        head: the initial head as float32 values, shape (P,).
        targets: of each output its name, kind, levels and values of a sample, see broker.codecs.targets;
            empty: `classes` and `targets_per_sample` say it.
    """

    server: Incarnation
    batch_size: Count
    local_steps: Count
    cut_size: Count
    classes: Count
    targets_per_sample: Count
    packet_bytes: Count
    head: bytes
    targets: TargetSpecs = []


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """A server is there, or wants to be: said among servers, on the run's server topic.

    Attributes:
        server: its incarnation.
        token: as in RunState.
        takeover: it takes the run over from a server that is at work.
    """

    server: Incarnation
    token: Count
    takeover: bool = False


class StopRun(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Somebody wants the run to end for good; said to the server, on the run's server topic."""

    reason: Text = ""


class RunScenario(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """What the run is, retained; for devices that have no file of it.

    Attributes:
        packed: the scenario, YAML with every default, as UTF-8 compressed with zlib (RFC 1950).
        model: fingerprint of the task's code, as in Hello; empty: the server does not tell.
    """

    packed: bytes
    model: Word = ""


FromClient = Hello | Status | Activations | FeatureGradient | HeadUpdate | Scores | Progress
FromServer = RunState | Assignment | Features | Gradient | Rejected | Ask | Released | Welcome | RunScenario
AmongServers = Claim | StopRun
Message = FromClient | FromServer | AmongServers
