"""A client's half of the protocol: it only ever answers the server.

    Assignment -> FirstBatch -> Activations -> Gradient -> BackwardStep -> Activations -> ... -> HeadUpdate
    Assignment in a U-shape -> FirstBatch -> Activations -> Features -> TopStep -> FeatureGradient -> Gradient
        -> BackwardStep -> Activations -> ... -> HeadUpdate
    Assignment without steps (FedAvg) -> FirstBatch -> HeadUpdate
    Assignment of an evaluation -> FirstBatch -> Activations -> Gradient, empty -> HeldOutBatch -> Activations

The client keeps no timers for that. The server waits for the answers, so it asks (Ask) when one does not
come; the client says how far it is (Progress), and sends an answer again only when it is asked for that. A
lost message, a duplicated one, a restarted device and a restarted server all come down to that.

A client whose data may grow looks at them every LOOK_S, and greets again when their number has changed.
"""

from typing import Literal

import msgspec

from broker.machine.actions import (
    Compute,
    ComputeDone,
    Done,
    Online,
    Publish,
    Received,
    Report,
    StartTimer,
    StopAsked,
    TimerFired,
    Undecodable,
)
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    BatchDown,
    BatchUp,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    RunState,
    Scores,
    Standing,
    Status,
)
from edge_client.actions import ClientAction, ClientEvent, ProtocolWarning
from edge_client.jobs import (
    BackwardStep,
    ClientJob,
    ClientResult,
    FirstBatch,
    HeldOutBatch,
    LookAtData,
    Stock,
    TopStep,
)

LOOK = "look"
"""Timer: it is time to look at the data."""
LOOK_S = 10.0
"""From one look at the data to the next."""

FATAL = ("scenario", "model", "roster", "version")
"""Reasons of Rejected after which this client cannot take part in the run."""

_OF_ROUNDS = (Gradient, Assignment, Features, Ask, Released)


class ClientCore:
    """The state machine of one client in one run.

    Args:
        run: name of the run.
        client: its name.
        hello: what it says of itself to every incarnation of the server.
        first_session: its connections are numbered from here on; higher than those before a restart.
        looks: its data may change while it runs.
    """

    __slots__ = (  # a simulated fleet may be large
        "_answer",
        "_busy",
        "_client",
        "_first_session",
        "_first_step",
        "_greeted",
        "_hello",
        "_looks",
        "_refused",
        "_round",
        "_run",
        "_server",
        "_session",
        "_step",
        "_steps",
        "_u_shape",
    )

    def __init__(
        self, run: str, client: str, hello: Hello, first_session: int = 0, *, looks: bool = False
    ) -> None:
        self._run = run
        self._client = client
        self._hello = hello
        self._first_session = self._session = first_session
        self._server = 0  # the incarnation that is in charge; 0 before one was heard of
        self._greeted = False
        self._looks = looks  # and has no timer yet
        self._forget_round()

    def _forget_round(self) -> None:
        self._round = 0
        self._first_step = 0  # above 0 in an evaluation
        self._steps = 0
        self._u_shape = False
        self._step = 0  # see Progress.step
        self._busy: ClientJob | None = None
        self._answer: BatchUp | HeadUpdate | Scores | None = None
        self._refused = False

    @property
    def standing(self) -> Standing:
        """How far it is with what the server said last."""
        if self._busy is not None:
            return Standing.WORKING
        if self._refused:
            return Standing.REFUSED
        return Standing.MISSING if self._answer is None else Standing.ANSWERED

    @property
    def session(self) -> int:
        """Number of its present connection, or of the last one."""
        return self._session

    def handle(self, event: ClientEvent, now_s: float) -> list[ClientAction]:  # noqa: ARG002  it keeps no timers
        """Take one event and say what is to be done."""
        if isinstance(event, Received):
            return self._received(event.message)
        if isinstance(event, ComputeDone):
            its = event.job is self._busy or isinstance(event.job, LookAtData)
            return self._computed(event.result) if its else []
        match event:
            case Online(connection):
                self._session = self._first_session + connection
                self._greeted = False
                looks, self._looks = self._looks, False
                timer = [StartTimer(LOOK, LOOK_S)] if looks else []
                return [self._status(online=True), *timer]
            case TimerFired():
                return [Compute(LookAtData(self._client))]
            case Undecodable(error=error) if error.reason == "version" and not self._greeted:
                return self._leave(str(error))  # with a server of its own version at work it stays with that
            case Undecodable(error=error):
                return [self._warn(f"unreadable message from the server: {error}")]
            case StopAsked(reason):
                return self._leave(reason)

    def _received(self, message: Message) -> list[ClientAction]:
        if isinstance(message, _OF_ROUNDS) and message.server != self._server:
            # A lower number is that of a server that another one has followed.
            return self._follow(message.server) if message.server > self._server else []
        match message:
            case Gradient() | Features():
                return self._answered(message)
            case Assignment():
                return self._assigned(message)
            case Ask():
                return self._asked(message)
            case Released():
                return self._released(message)
            case RunState():
                return self._run_state(message)
            case Rejected(reason, detail):
                why = detail if detail.startswith(f"{reason}: ") else f"{reason}: {detail}"
                warning = self._warn(f"rejected by the server: {why}")
                return [warning, *self._leave(why)] if reason in FATAL else [warning]
            case _:
                return []  # also Welcome: this client has the scenario and the task's code

    def _run_state(self, state: RunState) -> list[ClientAction]:
        if state.phase == "away":  # its number may be too low: the will was made before the server began
            self._greeted = False
            return []
        if state.server < self._server:
            return []
        if state.phase == "finished":
            return self._leave(state.reason)
        if state.server > self._server:
            self._forget_round()
            self._server, self._greeted = state.server, False
        if state.phase == "paused":
            self._greeted = False
            return []
        if self._greeted and state.phase != "gathering":
            return []
        return self._greet()

    def _counted(self, stock: Stock) -> list[ClientAction]:
        """Tell a server that was greeted what samples there are now, if it is something else than before."""
        hello = msgspec.structs.replace(self._hello, **msgspec.structs.asdict(stock))
        changed, self._hello = hello != self._hello, hello
        return self._greet() if changed and self._greeted else []

    def _follow(self, server: int) -> list[ClientAction]:
        """Turn to a new server; what it said came before this client had heard of it, so greet it first."""
        self._forget_round()
        self._server = server
        return self._greet()

    def _greet(self) -> list[ClientAction]:
        self._greeted = True
        hello = msgspec.structs.replace(self._hello, session=self._session)
        return [Publish(topics.up(self._run, self._client), hello)]

    def _assigned(self, assignment: Assignment) -> list[ClientAction]:
        if (assignment.round, assignment.first_step) <= (self._round, self._first_step):
            return []
        self._forget_round()
        self._round = assignment.round
        self._first_step = self._step = assignment.first_step
        self._steps = assignment.steps
        self._u_shape = bool(assignment.features)
        self._busy = FirstBatch(self._client, assignment)
        return [Compute(self._busy)]

    def _answered(self, answer: BatchDown) -> list[ClientAction]:
        """Go on with what the server says to a batch."""
        due = isinstance(self._answer, Activations | FeatureGradient) and answer.step == self._answer.step
        features_due = self._u_shape and isinstance(self._answer, Activations)
        if answer.round != self._round or self._busy is not None or not due:
            return []
        if isinstance(answer, Features) is not features_due:
            return []
        last = answer.step + 1 == self._steps
        if self._first_step and last:
            return []  # an evaluation has no head update
        self._step = answer.step + 1
        features = answer if isinstance(answer, Features) else None
        if self._first_step:
            self._busy = HeldOutBatch(self._client, self._round, self._step, features)
        elif isinstance(answer, Features):
            self._busy = TopStep(self._client, answer)
        else:
            self._busy = BackwardStep(self._client, answer, last=last)
        return [Compute(self._busy)]

    def _asked(self, ask: Ask) -> list[ClientAction]:
        missing = ask.round > self._round or (ask.round == self._round and ask.step > self._step)
        if ask.resend and not missing and self.standing is Standing.ANSWERED:
            return self._resend(ask)
        standing = Standing.MISSING if missing else self.standing
        return [self._progress(ask.number, standing)]

    def _resend(self, ask: Ask) -> list[ClientAction]:
        assert self._answer is not None
        if (ask.round, ask.step) != (self._round, self._step):
            return []
        self._answer = msgspec.structs.replace(self._answer, attempt=self._answer.attempt + 1)
        return [Publish(topics.up(self._run, self._client), self._answer)]

    def _released(self, released: Released) -> list[ClientAction]:
        if released.round == self._round:
            self._forget_round()
        return self._greet() if released.greet else []

    def _computed(self, result: ClientResult) -> list[ClientAction]:
        match result:
            case Activations() | FeatureGradient() | HeadUpdate() | Scores():
                self._busy, self._answer = None, result
                return [Publish(topics.up(self._run, self._client), result)]
            case WireError():
                self._busy, self._refused = None, True
                warning = self._warn(f"refused a message of the server: {result}")
                return [warning, self._progress(0, Standing.REFUSED)]
            case Stock():
                return [*self._counted(result), StartTimer(LOOK, LOOK_S)]

    def _progress(self, number: int, standing: Standing) -> Publish:
        progress = Progress(self._server, number, self._round, self._step, standing)
        return Publish(topics.up(self._run, self._client), progress)

    def _status(self, *, online: Literal[True, False]) -> Publish:
        return Publish(topics.status(self._run, self._client), Status(online, self._session), retain=True)

    def _warn(self, what: str) -> Report[ProtocolWarning]:
        return Report(ProtocolWarning(self._client, what))

    def _leave(self, reason: str) -> list[ClientAction]:
        return [self._status(online=False), Done(reason)]
