"""A server and its clients on wires that a test can cut, delay, double and shuffle; time is a number.

Every message that is said waits on a wire until the test delivers it. The broker keeps what is retained, says last
wills, and loses what is delivered to somebody who is not connected: clean sessions, as in the real runs.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from broker.codecs import Float32
from broker.machine.actions import (
    CancelTimer,
    Compute,
    ComputeDone,
    Done,
    Online,
    Publish,
    Received,
    Report,
    StartTimer,
    TimerFired,
)
from broker.wire import topics
from broker.wire.messages import (
    Activations,
    Assignment,
    Claim,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    RunState,
    Status,
)
from edge_client.core import BackwardStep, ClientAction, ClientCore, ClientEvent, ClientJob, FirstBatch
from scenarios.schema.flows import Codecs
from server_node.protocol.actions import ServerAction, ServerEvent
from server_node.protocol.core import ServerCore
from server_node.protocol.jobs import (
    CloseRound,
    EncodeHead,
    RoundClosed,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.protocol.ledger import Ledger
from server_node.protocol.plan import Plan, RoundPolicy
from server_node.protocol.reports import Dropped, RoundReport

D, P = 4, 3
FLEET = ("a", "b", "c", "d")
TENSORS = (Assignment, Activations, Gradient, HeadUpdate)
PLAN = Plan(
    run="r",
    incarnation=1,
    digest="same",
    seed=1,
    clients=FLEET,
    rounds=3,
    cohort=2,
    round_policy=RoundPolicy(2),
    steps=2,
    local_steps=2,
    codecs=Codecs(Float32(), Float32(), Float32(), Float32()),
    cut_size=D,
    head_size=P,
    batch_size=1,
    targets_per_sample=1,
    classes=10,
    evaluate_every=2,
    rejoin_s=20.0,
    retry_s=600.0,
)


@dataclass
class Client:
    """A device: its state machine, its job, and its wires; `up` and `down` hold what is under way."""

    core: ClientCore
    job: ClientJob | None = None
    connection: int = 0
    connected: bool = False
    up: deque[Message] = field(default_factory=deque)
    down: deque[Message] = field(default_factory=deque)
    left: str | None = None


class World:
    """See above.

    Args:
        plan: what is run.

    Attributes:
        faults: how many there were; so much more than usual may be said.
        batches: how often each (incarnation, client, round, step) went through the tail.
        tensors: how often each message with a tensor was said, by (incarnation, client, kind, round, step).
        rounds: the numbers of the rounds that have closed, for each start of the server.
        ended: why the run has ended; None while it has not.
    """

    def __init__(self, plan: Plan = PLAN) -> None:
        self.plan = plan
        self.now_s = 0.0
        self.faults = 0
        self.batches: Counter[tuple[int, str, int, int]] = Counter()
        self.tensors: Counter[tuple[int, str, str, int, int]] = Counter()
        self.rounds: list[list[int]] = []
        self.dropped: list[Dropped] = []
        self.ended: str | None = None
        self.said: Counter[str] = Counter()
        self._tokens = itertools.count(1)
        self._sessions = itertools.count(1)
        self._state: RunState | None = None
        self._statuses: dict[str, Status] = {}
        self.to_server: deque[tuple[str, Message]] = deque()
        self.server_connected = False
        self.clients: dict[str, Client] = {}
        self._rounds_done = 0
        self.start_server()
        for name in plan.clients:
            self.start_client(name)

    # Who is there.

    def start_server(self) -> None:
        """Start a server from the last checkpoint, which is that of the last round that has closed."""
        plan = replace(self.plan, incarnation=len(self.rounds) + 1, token=next(self._tokens))
        self.server = ServerCore(plan, Ledger(), self._rounds_done)
        self.job: TailJob | None = None
        self.timers: dict[str, float] = {}
        self.rounds.append([])
        self.connect_server()

    def connect_server(self) -> None:
        """Connect the server; what was under way to it is lost, and it gets what is retained."""
        self.server_connected = True
        self.to_server = deque((name, status) for name, status in self._statuses.items())
        if self._state is not None:
            self.to_server.append(("", self._state))
        self.feed_server(Online())

    def lose_server(self) -> None:
        """Cut the server off; the broker says its will."""
        self.server_connected = False
        self._say_state(RunState("away", self.server.incarnation, self.server.token))

    def start_client(self, name: str) -> None:
        """Start a device that knows nothing of what was before."""
        core = ClientCore("r", name, Hello(0, "same", 9), next(self._sessions) * 1000)
        self.clients[name] = Client(core)
        self.connect_client(name)

    def connect_client(self, name: str) -> None:
        """Connect a device; it gets the retained state."""
        client = self.clients[name]
        client.connection += 1
        client.connected = True
        client.down.clear()
        self.feed_client(name, Online(client.connection))
        if self._state is not None:
            client.down.append(self._state)

    def lose_client(self, name: str, *, will: bool = True) -> None:
        """Cut a device off, with all that is on its wires; the broker says its will, now or not at all."""
        client = self.clients[name]
        client.connected = False
        client.up.clear()
        client.down.clear()
        if will:
            self._say_status(name, Status(online=False, session=client.core.session))

    # What they say.

    def feed_server(self, event: ServerEvent) -> None:
        """Let something happen to the server."""
        if self.ended is None:
            for action in self.server.handle(event, self.now_s):
                self._of_server(action)

    def _of_server(self, action: ServerAction) -> None:
        match action:
            case Publish(topic, message):
                self._count(message, topics.parse(topic).client, self.server.incarnation)
                kind = topics.parse(topic)
                if isinstance(message, RunState):
                    self._say_state(message)
                elif isinstance(message, Claim):
                    self.to_server.append(("", message))
                elif self.clients[kind.client].connected and self.server_connected:
                    self.clients[kind.client].down.append(message)
            case Compute(job):
                assert self.job is None, "one job at a time"
                self.job = job
            case StartTimer(key, delay_s):
                assert delay_s >= 0
                self.timers[key] = self.now_s + delay_s
            case CancelTimer(key):
                self.timers.pop(key, None)
            case Report(RoundReport(round=number)):
                assert number <= self.plan.rounds
                self.rounds[-1].append(number)
                self._rounds_done = number
            case Report(Dropped() as dropped):
                self.dropped.append(dropped)
            case Done(reason):
                self.ended = reason
            case _:
                pass

    def feed_client(self, name: str, event: ClientEvent) -> None:
        """Let something happen to a device."""
        client = self.clients[name]
        if client.left is None:
            for action in client.core.handle(event, self.now_s):
                self._of_client(name, client, action)

    def _of_client(self, name: str, client: Client, action: ClientAction) -> None:
        match action:
            case Publish(message=Status() as status):
                self._say_status(name, status)
            case Publish(message=message):
                self._count(message, name, getattr(message, "server", 0))
                if client.connected:
                    client.up.append(message)
            case Compute(job):
                client.job = job
            case Done(reason):
                client.left = reason
            case _:
                pass

    def _count(self, message: Message, client: str, incarnation: int) -> None:
        self.said[type(message).__name__] += 1
        if isinstance(message, TENSORS):
            step = getattr(message, "step", 0)
            self.tensors[incarnation, client, type(message).__name__, message.round, step] += 1

    def _say_state(self, state: RunState) -> None:
        self._state = state
        for client in self.clients.values():
            if client.connected:
                client.down.append(state)
        if self.server_connected:
            self.to_server.append(("", state))

    def _say_status(self, name: str, status: Status) -> None:
        self._statuses[name] = status
        if self.server_connected:
            self.to_server.append((name, status))

    # What happens to what they say.

    def up(self, name: str) -> None:
        """Deliver the next message of a device to the server, or to nobody."""
        message = self.clients[name].up.popleft()
        if self.server_connected:
            self.feed_server(Received(name, message, 1))

    def down(self, name: str) -> None:
        """Deliver the next message to a device."""
        self.feed_client(name, Received("", self.clients[name].down.popleft(), 1))

    def others(self) -> None:
        """Deliver what servers and the broker say to the server."""
        sender, message = self.to_server.popleft()
        if self.server_connected:
            self.feed_server(Received(sender, message, 1))

    def work_server(self) -> None:
        """Let the tail finish its job."""
        job, self.job = self.job, None
        result: TailResult = None
        match job:
            case TailStep(batches=batches):
                for client, batch, _ in batches:
                    self.batches[self.server.incarnation, client, batch.round, batch.step] += 1
                result = TailStepped(
                    {name: (bytes(4 * D), 0.0) for name, _, _ in batches}, 1.0 * len(batches), len(batches)
                )
            case EncodeHead():
                result = bytes(4 * P)
            case CloseRound():
                result = RoundClosed(bytes(4 * P), None, {})
            case TailUpdate() | None:
                pass
        if job is not None:
            self.feed_server(ComputeDone(job, result))

    def work_client(self, name: str) -> None:
        """Let a device finish its job."""
        client = self.clients[name]
        job, client.job = client.job, None
        answer: Activations | HeadUpdate
        match job:
            case FirstBatch(assignment=a):
                answer = Activations(a.server, a.round, 0, 1, 1, bytes(4 * D), bytes(1))
            case BackwardStep(gradient=g, last=False):
                answer = Activations(g.server, g.round, g.step + 1, 1, 1, bytes(4 * D), bytes(1))
            case BackwardStep(gradient=g):
                answer = HeadUpdate(g.server, g.round, 1, self.plan.steps, 0.0, bytes(4 * P))
            case None:
                return
        self.feed_client(name, ComputeDone(job, answer))

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the timers that run out meanwhile fire, each at its time."""
        until_s = self.now_s + seconds
        while self.timers and min(self.timers.values()) <= until_s:
            key = min(self.timers, key=lambda each: self.timers[each])
            self.now_s = max(self.now_s, self.timers.pop(key))
            self.feed_server(TimerFired(key))
        self.now_s = until_s

    def busy(self) -> Iterator[str]:
        """Give the names of what can happen without time passing."""
        if self.to_server:
            yield "others"
        if self.job is not None:
            yield "work_server"
        for name, client in self.clients.items():
            if client.up:
                yield f"up {name}"
            if client.down:
                yield f"down {name}"
            if client.job is not None:
                yield f"work_client {name}"

    def do(self, what: str) -> None:
        """Let something of `busy` happen."""
        verb, _, name = what.partition(" ")
        method = getattr(self, verb)
        method(name) if name else method()

    def settle(self) -> None:
        """Stop all faults and let the run come to its end; fails if it does not within a day or 20,000 events."""
        for name, client in self.clients.items():
            if not client.connected and client.left is None:
                self.connect_client(name)
        if not self.server_connected:
            self.connect_server()
        end_s = self.now_s + 86_400
        for _ in range(20_000):
            if self.ended is not None:
                return
            what = next(self.busy(), None)
            if what is not None:
                self.do(what)
                continue
            assert self.timers, "nothing will ever happen again"
            assert self.now_s < end_s, "the run has not ended within a day"
            self.pass_time(max(0.0, min(self.timers.values()) - self.now_s))
        raise AssertionError("too many events")
