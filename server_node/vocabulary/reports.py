"""What somebody who watches a run hears of it."""

from collections.abc import Callable
from dataclasses import dataclass

from server_node.vocabulary.ledger import Ledger


@dataclass(frozen=True, slots=True)
class RoundReport:
    """A round has ended.

    Attributes:
        round: counted from 1.
        loss: mean training loss over the round's samples; NaN when nobody took part.
        metric: of the evaluation after this round, if there was one.
        clients: whose head updates were averaged.
        client_steps: batches that went through the tail; in FedAvg those behind the averaged updates.
        quantization_error: mean of ||z - z~||^2 / ||z||^2 by samples.
        staleness: mean rounds between an update's assignment and this round.
        online: clients online at the end.
    """

    round: int
    loss: float
    metric: float | None
    clients: int
    client_steps: int
    quantization_error: float
    staleness: float
    online: int


@dataclass(frozen=True, slots=True)
class Gathering:
    """So many clients are online while the fleet gathers; the last one comes as the first round begins."""

    online: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """A round goes on without a member of its cohort."""

    round: int
    client: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A message of a client was refused; at most one a second for each client is reported."""

    client: str
    why: str


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something about a client that a person should know, and that harms nothing; said once of each."""

    client: str
    what: str


@dataclass(frozen=True, slots=True)
class Working:
    """What a simulated run does that is no round: in a large fleet that takes a while.

    Attributes:
        what: in words.
        done: how much of it.
        of: of how much; 0: not known.
    """

    what: str
    done: int = 0
    of: int = 0


Fact = Gathering | RoundReport | Dropped | Refused | Noticed | Working
Watch = Callable[[Fact, Ledger], None]
"""Is called with each fact, as it happens, and the byte counts so far."""
