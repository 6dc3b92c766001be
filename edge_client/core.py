"""A client's half of the protocol: it only ever answers the server.

    Assignment -> Start -> Activations -> Gradient -> Learn -> Activations -> ... -> HeadUpdate
    Assignment without steps (FedAvg) -> Start -> HeadUpdate

The client keeps no timers. The server waits for the answers, so the server repeats what it said; the
client repeats its last answer when it is asked again. A lost message, a duplicated one, a restarted
device and a restarted server all come down to that one rule.
"""

from dataclasses import dataclass

import msgspec

from broker.machine.actions import (
    Action,
    Compute,
    ComputeDone,
    Done,
    Event,
    Online,
    Publish,
    Received,
    Report,
    StopAsked,
    Undecodable,
)
from broker.wire import topics
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

FATAL = ("scenario", "roster")
"""Reasons of Rejected after which this client cannot take part in the run."""


class FirstBatch(msgspec.Struct, frozen=True):
    """Job: take the assigned head and send the first batch through it; without steps, train it to the end.

    Its result is the answer to publish: Activations, or HeadUpdate when the assignment has no steps, or
    WireError when it cannot be used.
    """

    client: str
    assignment: Assignment


class BackwardStep(msgspec.Struct, frozen=True):
    """Job: one corrected backward pass and optimizer step, then the next batch or the round's update.

    Its result is the answer to publish: Activations or HeadUpdate, or WireError.
    """

    client: str
    gradient: Gradient
    last: bool


@dataclass(frozen=True, slots=True)
class ProtocolWarning:
    """Report: something from the server was refused, or the server refused something."""

    client: str
    what: str


ClientJob = FirstBatch | BackwardStep
ClientResult = Activations | HeadUpdate | WireError
ClientAction = Action[ClientJob, ProtocolWarning]
ClientEvent = Event[ClientJob, ClientResult]


class ClientCore:
    """The state machine of one client in one run.

    Args:
        run: name of the run.
        hello: what it says of itself to every incarnation of the server.
        client: its name.
    """

    __slots__ = (  # a simulated fleet may be large
        "_answer",
        "_busy",
        "_client",
        "_greeted",
        "_hello",
        "_incarnation",
        "_round",
        "_run",
        "_steps",
    )

    def __init__(self, run: str, client: str, hello: Hello) -> None:
        self._run = run
        self._client = client
        self._hello = hello
        self._incarnation = ""
        self._greeted = False
        self._forget_round()

    def _forget_round(self) -> None:
        self._round = 0
        self._steps = 0
        self._busy: ClientJob | None = None
        self._answer: Activations | HeadUpdate | None = None

    def handle(self, event: ClientEvent) -> list[ClientAction]:
        """Take one event and say what is to be done."""
        match event:
            case Received():
                return self._received(event.message)
            case ComputeDone(job, result) if job is self._busy:
                return self._computed(result)
            case Online():
                self._greeted = False
                return [Publish(topics.status(self._run, self._client), Status(online=True), retain=True)]
            case Undecodable(error=error):
                return [Report(ProtocolWarning(self._client, f"unreadable message from the server: {error}"))]
            case StopAsked(reason):
                return self._leave(reason)
            case _:
                return []

    def _received(self, message: Message) -> list[ClientAction]:
        match message:
            case Gradient():
                return self._gradient(message)
            case Assignment():
                return self._assigned(message)
            case RunState():
                return self._run_state(message)
            case Rejected(reason, detail):
                trouble = Report(ProtocolWarning(self._client, f"rejected by the server: {reason}: {detail}"))
                return [trouble, *self._leave(f"{reason}: {detail}")] if reason in FATAL else [trouble]
            case _:
                return []

    def _run_state(self, state: RunState) -> list[ClientAction]:
        known = state.incarnation == self._incarnation
        if state.phase == "finished":
            # A retained end of an earlier run of this name is no reason to leave before ours began.
            return self._leave(state.reason) if known else []
        if state.phase == "away" or (known and self._greeted and state.phase != "gathering"):
            return []
        if not known:
            self._forget_round()
        self._incarnation = state.incarnation
        self._greeted = True
        hello = msgspec.structs.replace(self._hello, round=self._round)
        return [Publish(topics.up(self._run, self._client), hello)]

    def _assigned(self, assignment: Assignment) -> list[ClientAction]:
        if assignment.round < self._round:
            return []
        if assignment.round == self._round:
            return self._repeat()
        self._round = assignment.round
        self._steps = assignment.steps
        self._answer = None
        self._busy = FirstBatch(self._client, assignment)
        return [Compute(self._busy)]

    def _gradient(self, gradient: Gradient) -> list[ClientAction]:
        if gradient.round != self._round or self._busy is not None:
            return []
        if not isinstance(self._answer, Activations) or gradient.step != self._answer.step:
            return self._repeat()
        self._busy = BackwardStep(self._client, gradient, last=gradient.step + 1 == self._steps)
        return [Compute(self._busy)]

    def _repeat(self) -> list[ClientAction]:
        if self._busy is not None or self._answer is None:
            return []
        self._answer = msgspec.structs.replace(self._answer, attempt=self._answer.attempt + 1)
        return [Publish(topics.up(self._run, self._client), self._answer)]

    def _computed(self, result: ClientResult) -> list[ClientAction]:
        self._busy = None
        match result:
            case Activations() | HeadUpdate():
                self._answer = result
                return [Publish(topics.up(self._run, self._client), result)]
            case WireError():
                return [Report(ProtocolWarning(self._client, f"refused a message of the server: {result}"))]
            case _:
                raise TypeError(f"a job gave {type(result).__name__}")

    def _leave(self, reason: str) -> list[ClientAction]:
        offline = Publish(topics.status(self._run, self._client), Status(online=False), retain=True)
        return [offline, Done(reason)]
