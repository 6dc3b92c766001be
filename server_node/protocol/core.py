"""The server's half of the protocol: cohort, rounds, repetition, and what is done with bad messages.

    gathering -> round 1 .. rounds -> finished
    a round:  Assignment to the cohort
              each step: Activations arrive -> TailStep on those that wait -> Gradient; then TailUpdate
              HeadUpdates arrive -> CloseRound

One job runs at a time; activations that arrive meanwhile form the next TailStep together. The server
alone repeats messages (see edge_client.core), so all timers are here:

    join             the fleet had its time to appear; start with those who did, and call the others again
    deadline         from here on the round makes do with fewer members
    retry            ticks during a round; who said nothing for a whole tick is told again
    rejoin:<client>  a member of the cohort vanished; when it fires the round goes on without it
    quiet:<client>   its greetings and errors are answered at most once while this runs
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import msgspec
import numpy as np

from broker.codecs import codec_to_wire
from broker.machine.actions import (
    Action,
    CancelTimer,
    Compute,
    ComputeDone,
    Done,
    Event,
    Online,
    Publish,
    Received,
    Report,
    StartTimer,
    StopAsked,
    TimerFired,
    Undecodable,
)
from broker.wire import bits, topics
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Rejected,
    RunState,
    Status,
)
from scenarios.schema.flows import Codecs
from scenarios.seeds import generator
from server_node.protocol.ledger import Ledger

M = TypeVar("M", Assignment, Gradient)

QUIET_S = 1.0
MAX_REPEATS = 5
"""After so many unanswered repetitions a member is dropped from its round."""


@dataclass(frozen=True, slots=True)
class RoundPolicy:
    """How long a round waits for whom; every straggler policy is a setting of these.

    Attributes:
        choose: members a round begins with.
        enough: members that are ready end the wait for the others; None: all of them.
        deadline_s: after this long `minimum` is enough; None: there is no deadline.
        minimum: see `deadline_s`.
        max_staleness: None: who is late is dropped. Otherwise late members are not waited for either, but
            keep working: their answers count in a later round with weight 1/sqrt(1 + rounds late), up to
            so many rounds late (buffered asynchronous training, as in FedBuff).
    """

    choose: int
    enough: int | None = None
    deadline_s: float | None = None
    minimum: int = 1
    max_staleness: int | None = None


@dataclass(frozen=True)
class Plan:
    """What the state machine must know of a scenario.

    Attributes:
        run: name of the run, in every topic.
        incarnation: differs at every start of the server.
        digest: of the scenario; clients with another one are rejected.
        seed: of the cohort's choice.
        clients: names of the fleet.
        rounds: how many.
        cohort: clients that must be there to begin without the rest of the fleet.
        patience: how many are chosen for a round, and how long it waits for whom.
        steps: exchanges of activations and gradient a round; 0 in FedAvg, where a client trains by itself.
        local_steps: batches that a client trains on in a round.
        codecs: of clients to which no rule of `flows.by_link` applies.
        by_link: of the others, one tuple for all that are alike.
        cut_size: d.
        head_size: parameters of the head.
        batch_size: most samples in a step.
        targets_per_sample: integers in one target.
        classes: targets lie below it.
        evaluate_every: rounds between evaluations; the last round always has one.
        rejoin_s: how long a vanished member of the cohort may be away.
        retry_s: silence after which a message is repeated.
        join_s: how long to wait for the whole fleet before starting with those who are there.
    """

    run: str
    incarnation: str
    digest: str
    seed: int
    clients: tuple[str, ...]
    rounds: int
    cohort: int
    round_policy: RoundPolicy
    steps: int
    local_steps: int
    codecs: Codecs
    cut_size: int
    head_size: int
    batch_size: int
    targets_per_sample: int
    classes: int
    evaluate_every: int
    rejoin_s: float
    retry_s: float
    join_s: float = 60.0
    by_link: Mapping[str, Codecs] = field(default_factory=dict)

    def codecs_of(self, client: str) -> Codecs:
        """Give a client's codecs."""
        return self.by_link.get(client, self.codecs)


@dataclass(frozen=True, slots=True)
class EncodeHead:
    """Job: encode the initial (or restored) head; result: bytes."""


@dataclass(frozen=True, slots=True)
class TailStep:
    """Job: some of the cohort's batches through the tail; result: TailStepped."""

    round: int
    step: int
    batches: tuple[tuple[str, Activations, float], ...]  # client, batch, weight of its samples


@dataclass(frozen=True, slots=True)
class TailStepped:
    """What came of a TailStep.

    Attributes:
        gradients: each client's encoded gradient and lambda, or why its batch was refused.
        loss_sum: over the samples of the batches that were not refused.
        samples: how many.
    """

    gradients: dict[str, tuple[bytes, float] | WireError]
    loss_sum: float
    samples: int


@dataclass(frozen=True, slots=True)
class TailUpdate:
    """Job: one optimizer step with the weighted average of the samples' gradients; result: None."""

    round: int
    step: int


@dataclass(frozen=True, slots=True)
class CloseRound:
    """Job: average the head updates by samples and weight, evaluate if asked; result: RoundClosed."""

    round: int
    updates: tuple[tuple[str, HeadUpdate, float], ...]
    evaluate: bool


@dataclass(frozen=True, slots=True)
class RoundClosed:
    """Attributes: the next encoded head, the metric if evaluated, whose updates were refused and why."""

    head: bytes
    metric: float | None
    refused: dict[str, WireError]


@dataclass(frozen=True, slots=True)
class RoundReport:
    """Report: a round has ended.

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
    """Report: clients online while the fleet gathers; the last one comes as the first round begins."""

    online: int


@dataclass(frozen=True, slots=True)
class Dropped:
    """Report: a round goes on without a member of its cohort."""

    round: int
    client: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Report: a message of a client was refused; at most one a second for each client is reported."""

    client: str
    why: str


@dataclass(slots=True)
class _Member:
    """A client at work; `step` is the next step it owes."""

    assignment: Assignment
    step: int = 0
    gradient: Gradient | None = None
    waiting: Activations | None = None  # arrived, not yet answered
    update: HeadUpdate | None = None
    silent: bool = False
    repeats: int = 0

    @property
    def owes(self) -> bool:
        return self.waiting is None and self.update is None


@dataclass(slots=True)
class _Round:
    number: int
    step: int = 0
    overdue: bool = False
    loss_sum: float = 0.0
    samples: int = 0
    client_steps: int = 0


@dataclass(slots=True)
class _Quiet:
    greeting: Hello | None = None  # came while quiet; handled when the timer fires


class ServerCore:
    """The state machine of the server in one run.

    Args:
        plan: see Plan.
        ledger: counts every message.
        rounds_done: above 0 when a checkpoint was restored.
    """

    def __init__(self, plan: Plan, ledger: Ledger, rounds_done: int = 0) -> None:
        self._plan = plan
        self._roster = frozenset(plan.clients)
        self._ledger = ledger
        self._phase: Literal["gathering", "running", "finished"] = "gathering"
        self._joined = False
        self._number = rounds_done
        self._online: set[str] = set()
        self._round: _Round | None = None
        self._members: dict[str, _Member] = {}
        self._ready: set[str] = set()  # members whose activations wait
        self._behind: set[str] = set()  # members that the current step waits for
        self._head = b""
        self._busy = True  # until the head is encoded
        self._opened = False
        self._quiet: dict[str, _Quiet] = {}

    def handle(self, event: Event) -> list[Action]:
        """Take one event and say what is to be done."""
        match event:
            case Received():
                self._ledger.receive(event.message, event.wire_bytes)
                actions = self._received(event.sender, event.message)
            case ComputeDone(job, result):
                self._busy = False
                actions = self._computed(job, result)
            case TimerFired(key):
                actions = self._timer(key)
            case Online():
                actions = self._connected()
            case Undecodable(sender, error):
                actions = self._refuse(sender, error)
            case StopAsked(reason):
                actions = self._finish(reason)
        actions += self._advance()
        for action in actions:
            if isinstance(action, Publish):
                self._ledger.publish(action.topic, action.message)
        return actions

    # -- what comes in ---------------------------------------------------------------------------------

    def _connected(self) -> list[Action]:
        actions: list[Action] = [self._state()]
        if not self._opened:
            self._opened = True
            actions += [Compute(EncodeHead()), StartTimer("join", self._plan.join_s)]
        else:  # what clients said while we were away is lost
            for client, member in list(self._members.items()):
                actions += self._repeat(client, member)
        return actions

    def _received(self, sender: str, message: Message) -> list[Action]:
        if sender not in self._roster:
            return self._refuse(sender, WireError("roster", f"{sender!r} is no client of this run"))
        match message:
            case Activations():
                return self._activations(sender, message)
            case HeadUpdate():
                return self._head_update(sender, message)
            case Hello():
                return self._greeted(sender, message)
            case Status(online):
                return [] if online else self._vanished(sender)
            case _:
                kind = type(message).__name__
                return self._refuse(sender, WireError("direction", f"a client does not send {kind}"))

    def _greeted(self, client: str, hello: Hello) -> list[Action]:
        if hello.scenario != self._plan.digest:
            why = f"the device's scenario {hello.scenario} is not the server's {self._plan.digest}"
            return self._refuse(client, WireError("scenario", why))
        self._online.add(client)
        quiet = self._quiet.get(client)
        if quiet is not None:
            quiet.greeting = hello
            return []
        actions = [*self._hush(client), CancelTimer(f"rejoin:{client}")]
        if self._phase == "gathering":
            actions.append(Report(Gathering(len(self._online))))
        member = self._members.get(client)
        if member is None or member.update is not None:
            return actions
        if hello.round == member.assignment.round:
            return actions + self._repeat(client, member)
        if member.step <= 1:  # it lost its state; its first step comes out the same again
            member.assignment = _again(member.assignment)
            return [*actions, Publish(topics.down(self._plan.run, client), member.assignment)]
        return actions + self._drop(client)

    def _vanished(self, client: str) -> list[Action]:
        self._online.discard(client)
        if client in self._quiet:
            self._quiet[client].greeting = None
        if client not in self._members:
            return []
        return [StartTimer(f"rejoin:{client}", self._plan.rejoin_s)]

    def _activations(self, client: str, message: Activations) -> list[Action]:
        member, error = self._standing(client, message.round, message.step)
        if error is None and message.step >= self._plan.steps:
            error = WireError("order", f"step {message.step} of {self._plan.steps}")
        if error is None and member is not None:
            if message.step < member.step or member.waiting is not None:
                return self._duplicate(client, member)
            error = self._wrong_size(client, message)
            if error is None:
                member.waiting = message
                if self._round is not None and self._is_due(member, self._round):
                    self._ready.add(client)
                member.silent, member.repeats = False, 0
                return []
        return self._refuse(client, error) if error else self._late()

    def _head_update(self, client: str, message: HeadUpdate) -> list[Action]:
        member, error = self._standing(client, message.round, self._plan.steps)
        if error is None and member is not None:
            if member.update is not None:
                return self._duplicate(client, member)
            codec, size = self._plan.codecs_of(client).head_update_up, len(message.payload)
            if codec.fits(size, 1, self._plan.head_size):
                member.update = message
                self._behind.discard(client)
                self._ledger.tensor("head_update_up", 1, self._plan.head_size)
                return []
            error = WireError("shape", f"head update of {size} bytes in {codec}")
        return self._refuse(client, error) if error else self._late()

    def _standing(self, client: str, number: int, step: int) -> tuple[_Member | None, WireError | None]:
        """Give the member that an answer belongs to, None if it is late, and what is wrong with it."""
        if number > self._number:
            return None, WireError("order", f"round {number} has not begun")
        member = self._members.get(client)
        if member is None or number < member.assignment.round:
            return None, None
        if number > member.assignment.round or step > member.step:
            return member, WireError("order", f"round {number}, step {step} is not what comes next")
        return member, None

    def _wrong_size(self, client: str, message: Activations) -> WireError | None:
        plan, n = self._plan, message.count
        if n > plan.batch_size:
            return WireError("shape", f"{n} samples in a batch of at most {plan.batch_size}")
        codec, size = plan.codecs_of(client).activations_up, len(message.payload)
        if not codec.fits(size, n, plan.cut_size):
            return WireError("shape", f"activations of {size} bytes for {n} samples in {codec}")
        expected = bits.packed_bytes(n * plan.targets_per_sample, bits.bits_for(plan.classes))
        if len(message.targets) != expected:
            return WireError("shape", f"targets of {len(message.targets)} bytes, not {expected}")
        return None

    def _duplicate(self, client: str, member: _Member) -> list[Action]:
        self._ledger.duplicates += 1
        return self._repeat(client, member)

    def _late(self) -> list[Action]:
        self._ledger.discarded_late += 1
        return []

    def _timer(self, key: str) -> list[Action]:
        kind, _, client = key.partition(":")
        match kind:
            case "join" if self._phase == "gathering":
                self._joined = True
                return [self._state(), StartTimer("join", self._plan.join_s)]
            case "deadline" if self._round is not None:
                self._round.overdue = True
            case "retry":
                return [*self._tick(), StartTimer("retry", self._plan.retry_s)]
            case "rejoin" if client not in self._online:
                member = self._members.get(client)
                return self._drop(client) if member is not None and member.update is None else []
            case "quiet":
                quiet = self._quiet.pop(client)
                if quiet.greeting is not None:
                    return self._greeted(client, quiet.greeting)
        return []

    def _tick(self) -> list[Action]:
        actions: list[Action] = []
        for client, member in list(self._members.items()):
            if member.owes and member.silent:
                actions += self._repeat(client, member)
            member.silent = True
        return actions

    def _computed(self, job: object, result: object) -> list[Action]:
        match job, result:
            case TailStep(), TailStepped():
                return self._stepped(result)
            case EncodeHead(), bytes():
                self._head = result
            case TailUpdate(), None:
                pass
            case CloseRound(), RoundClosed():
                return self._closed(job, result)
            case _:
                raise TypeError(f"{type(job).__name__} gave {type(result).__name__}")
        return []

    def _stepped(self, result: TailStepped) -> list[Action]:
        actions: list[Action] = []
        current = self._round
        assert current is not None
        current.loss_sum += result.loss_sum
        current.samples += result.samples
        for client, outcome in result.gradients.items():
            if isinstance(outcome, WireError):
                actions += [*self._refuse(client, outcome), *self._drop(client)]
                continue
            current.client_steps += 1
            member = self._members.get(client)
            if member is None or member.waiting is None:
                continue
            n = member.waiting.count
            for flow in ("activations_up", "gradient_down"):
                self._ledger.tensor(flow, n, self._plan.cut_size)
            codec = self._plan.codecs_of(client).activations_up
            self._ledger.paper(codec, n, self._plan.cut_size, len(member.waiting.payload))
            answered = member.waiting
            payload, correction = outcome
            member.gradient = Gradient(answered.round, answered.step, 1, correction, payload)
            member.waiting = None
            member.step += 1
            self._ready.discard(client)
            if not self._to_the_end(current) and member.step > current.step:
                self._behind.discard(client)
            actions.append(Publish(topics.down(self._plan.run, client), member.gradient))
        return actions

    def _closed(self, job: CloseRound, result: RoundClosed) -> list[Action]:
        current, self._round = self._round, None
        assert current is not None
        actions: list[Action] = [CancelTimer("retry"), CancelTimer("deadline")]
        for client, error in result.refused.items():
            actions += self._refuse(client, error)
        for client, _, _ in job.updates:
            del self._members[client]
        used = [update for client, update, _ in job.updates if client not in result.refused]
        samples = sum(update.samples for update in used)
        self._head = result.head
        report = RoundReport(
            round=job.round,
            loss=current.loss_sum / current.samples if current.samples else float("nan"),
            metric=result.metric,
            clients=len(used),
            client_steps=current.client_steps if self._plan.steps else len(used) * self._plan.local_steps,
            quantization_error=sum(u.quantization_error * u.samples for u in used) / max(samples, 1),
            staleness=sum(job.round - u.round for u in used) / max(len(used), 1),
            online=len(self._online),
        )
        actions.append(Report(report))
        return actions + self._finish("complete") if job.round == self._plan.rounds else actions

    # -- what goes out ---------------------------------------------------------------------------------

    def _advance(self) -> list[Action]:
        """Start the next job or round if nothing is in its way."""
        if self._busy or self._phase == "finished":
            return []
        if self._round is None:
            return self._begin_round() if self._may_begin() else []
        actions, job = self._next_job(self._round)
        if job is None:
            return actions
        self._busy = True
        return [*actions, Compute(job)]

    def _next_job(self, current: _Round) -> tuple[list[Action], TailStep | TailUpdate | CloseRound | None]:
        if self._ready:
            batches = [
                (client, member.waiting, self._weight(member))
                for client in sorted(self._ready)
                if (member := self._members[client]).waiting is not None
            ]
            return [], TailStep(current.number, current.step, tuple(batches))
        enough, actions = self._enough(current)
        if not enough:
            return [], None
        buffered = self._plan.round_policy.max_staleness is not None
        if current.step < (min(self._plan.steps, 1) if buffered else self._plan.steps):
            current.step += 1
            self._look_around(current)
            return actions, TailUpdate(current.number, current.step - 1)
        updates = [
            (client, member.update, self._weight(member))
            for client, member in sorted(self._members.items())
            if member.update is not None
        ]
        last = current.number == self._plan.rounds
        evaluate = last or current.number % self._plan.evaluate_every == 0
        return actions, CloseRound(current.number, tuple(updates), evaluate)

    def _enough(self, current: _Round) -> tuple[bool, list[Action]]:
        """Say whether the round need not wait here any longer, and drop whom it will not wait for."""
        round_policy = self._plan.round_policy
        keep_late = round_policy.max_staleness is not None
        present = len(self._members)
        needed = min(present, round_policy.enough or present)
        if current.overdue:
            needed = min(needed, round_policy.minimum)
        if present - len(self._behind) < needed:
            return False, []
        return True, [] if keep_late else [
            action for client in list(self._behind) for action in self._drop(client)
        ]

    def _to_the_end(self, current: _Round) -> bool:
        """Say whether what is missing is head updates, not activations."""
        return self._plan.round_policy.max_staleness is not None or current.step == self._plan.steps

    def _is_due(self, member: _Member, current: _Round) -> bool:
        """Say whether a member's activations belong to the current step."""
        return self._plan.round_policy.max_staleness is not None or member.step == current.step

    def _look_around(self, current: _Round) -> None:
        """Find anew who is ready and who is behind; between steps `_ready` and `_behind` are kept up."""
        to_the_end, members = self._to_the_end(current), self._members.items()
        self._ready = {c for c, m in members if m.waiting is not None and self._is_due(m, current)}
        self._behind = {c for c, m in members if (m.update is None if to_the_end else m.step <= current.step)}

    def _weight(self, member: _Member) -> float:
        """Weigh an answer by how many rounds late it is, 1/sqrt(1 + s)."""
        return 1 / math.sqrt(1 + self._number - member.assignment.round)

    def _may_begin(self) -> bool:
        if self._phase == "running":
            return bool(self._online)
        enough = self._plan.cohort if self._joined else len(self._plan.clients)
        return len(self._online) >= enough

    def _begin_round(self) -> list[Action]:
        actions: list[Action] = []
        self._number += 1
        if self._phase == "gathering":
            self._phase = "running"
            actions += [Report(Gathering(len(self._online))), self._state(), CancelTimer("join")]
        plan = self._plan
        for client, member in list(self._members.items()):
            if self._number - member.assignment.round > (plan.round_policy.max_staleness or 0):
                actions += self._drop(client)
        chosen = self._choose(plan.round_policy.choose - len(self._members))
        assignments: dict[int, Assignment] = {}  # one for all who share their codecs
        self._round = _Round(self._number)
        for client in chosen:
            codecs = plan.codecs_of(client)
            if id(codecs) not in assignments:
                assignments[id(codecs)] = self._assignment(codecs)
            assignment = assignments[id(codecs)]
            self._members[client] = _Member(assignment)
            self._ledger.tensor("head_state_down", 1, plan.head_size)
            actions.append(Publish(topics.down(plan.run, client), assignment))
        self._look_around(self._round)
        if plan.round_policy.deadline_s is not None:
            actions.append(StartTimer("deadline", plan.round_policy.deadline_s))
        return [*actions, StartTimer("retry", plan.retry_s)]

    def _assignment(self, codecs: Codecs) -> Assignment:
        up, down, update, state = map(codec_to_wire, codecs)
        return Assignment(self._number, 1, self._plan.steps, (up, down, update, state), self._head)

    def _choose(self, wanted: int) -> list[str]:
        """Draw so many of those who are online and free, or all if they are fewer, each as likely."""
        clients, online, members = self._plan.clients, self._online, self._members
        rng = generator(self._plan.seed, "cohort", self._number)
        free = len(online) - sum(client in online for client in members)
        if 8 * (free - wanted) < len(clients):
            candidates = sorted(online - members.keys())
            return [candidates[i] for i in np.sort(rng.choice(free, min(wanted, free), replace=False))]
        chosen: set[str] = set()  # at least one draw in eight hits, so a large fleet is not looked through
        while len(chosen) < wanted:
            drawn = (clients[i] for i in rng.integers(len(clients), size=wanted - len(chosen)).tolist())
            chosen.update(client for client in drawn if client in online and client not in members)
        return sorted(chosen)

    def _repeat(self, client: str, member: _Member) -> list[Action]:
        """Say again what a member has not answered; after MAX_REPEATS go on without it."""
        if not member.owes:
            return []
        member.repeats += 1
        if member.repeats > MAX_REPEATS:
            self._online.discard(client)  # until it greets again
            return self._drop(client)
        message: Assignment | Gradient
        if member.gradient is None:
            message = member.assignment = _again(member.assignment)
        else:
            message = member.gradient = _again(member.gradient)
        return [Publish(topics.down(self._plan.run, client), message)]

    def _drop(self, client: str) -> list[Action]:
        """Go on without a member; its answers are late from here on."""
        if self._members.pop(client, None) is None:
            return []
        self._ready.discard(client)
        self._behind.discard(client)
        return [CancelTimer(f"rejoin:{client}"), Report(Dropped(self._number, client))]

    def _refuse(self, client: str, error: WireError) -> list[Action]:
        """Count a bad message; tell its sender unless it was told something a moment ago."""
        self._ledger.reject(error.reason)
        whose = client if client in self._roster else ""  # strangers share one voice
        if whose in self._quiet:
            return []
        answer = Publish(topics.down(self._plan.run, client), Rejected(error.reason, str(error)[:512]))
        return [*self._hush(whose), Report(Refused(client, str(error))), answer]

    def _hush(self, client: str) -> list[Action]:
        self._quiet[client] = _Quiet()
        return [StartTimer(f"quiet:{client}", QUIET_S)]

    def _state(self, reason: str = "") -> Publish:
        plan = self._plan
        state = RunState(self._phase, plan.incarnation, self._number, plan.rounds, reason)
        return Publish(topics.state(plan.run), state, retain=True)

    def _finish(self, reason: str) -> list[Action]:
        if self._phase == "finished":
            return []
        self._phase = "finished"
        return [self._state(reason), Done(reason)]


def _again(message: M) -> M:
    return msgspec.structs.replace(message, attempt=message.attempt + 1)
