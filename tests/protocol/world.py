"""Servers, a broker and clients on wires that a test can cut, delay, double and shuffle; time is a number.

Every message that is said waits on a wire until the test delivers it. The broker keeps what is retained, says
last wills, gives up who is silent for long, and loses what is meant for somebody who is not there: clean
sessions, as in the real runs. What somebody says without a connection is lost, or said on the next one.
"""

import itertools
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from broker.codecs import Float16, Float32, codec_from_wire
from broker.codecs.targets import Labels
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
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    BatchUp,
    Claim,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    RunState,
    Scores,
    Status,
)
from edge_client.actions import ClientAction, ClientEvent
from edge_client.core import ClientCore
from edge_client.jobs import BackwardStep, ClientJob, FirstBatch, HeldOutBatch, TopStep
from scenarios.schema.flows import Codecs
from server_node.protocol.core import ServerCore
from server_node.protocol.phase import Phase
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.jobs import (
    ChangesEncoded,
    CloseRound,
    EncodeChanges,
    EncodeHead,
    HeadEncoded,
    RoundClosed,
    ScoreBatches,
    Scored,
    TailForward,
    TailForwarded,
    TailJob,
    TailResult,
    TailStep,
    TailStepped,
    TailUpdate,
)
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan, RoundPolicy
from server_node.vocabulary.reports import Dropped, RoundReport

D, F, P = 4, 2, 3
UNNOTICED_S = 45.0
"""The broker gives up who is silent for one and a half keepalives."""

FLEET = ("a", "b", "c", "d")
HELD_OUT = {"a": 1, "b": 2, "c": 3, "d": 0}
"""Samples that clients keep for evaluation, in a plan with `held_out`; each is a batch."""
TENSORS = (Assignment, Activations, Features, FeatureGradient, Gradient, HeadUpdate)
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
    targets=Labels(10),
    evaluate_every=2,
    rejoin_s=20.0,
    retry_s=600.0,
)

ADAPTIVE = replace(PLAN, ladder=({"activations_up": Float32()}, {"activations_up": Float16()}))
ONE_WAY = replace(PLAN, gradients_every="never")
NOW_AND_THEN = replace(PLAN, gradients_every=2)
U_SHAPE = replace(PLAN, steps=4, features_size=F)


@dataclass
class Client:
    """A device: its state machine, its job, and its wires; `up` and `down` hold what is under way.

    Attributes:
        frozen_s: since when it does nothing; None: it is awake.
        left: why it has left the run.
        batch: the payload of its activations, in the codec that it was told last.
        heads: the rounds whose heads it has; see scenarios.heads.held.
        anew: it is not the first one of its name.
        refused: rounds whose heads were changes of one that it has not.
    """

    core: ClientCore
    job: ClientJob | None = None
    connection: int = 0
    connected: bool = False
    up: deque[Message] = field(default_factory=deque)
    down: deque[Message] = field(default_factory=deque)
    frozen_s: float | None = None
    left: str | None = None
    batch: bytes = b""
    heads: set[int] = field(default_factory=set)
    anew: bool = False
    refused: set[int] = field(default_factory=set)


@dataclass
class Server:
    """A process of the server.

    Attributes:
        inbox: what is under way to it, with its senders; of servers and the broker the sender is "".
        unsaid: what it has said while it was not connected.
        will: what the broker says when it is gone, made when it connected.
        rounds_before: that its checkpoint had.
        rounds: that it has closed.
        in_vain: how many of them when another server had begun already; their checkpoints do not count.
        ended: why it is done.
    """

    core: ServerCore
    job: TailJob | None = None
    timers: dict[str, float] = field(default_factory=dict)
    connected: bool = False
    inbox: deque[tuple[str, Message]] = field(default_factory=deque)
    unsaid: list[Publish] = field(default_factory=list)
    will: RunState | None = None
    frozen_s: float | None = None
    rounds_before: int = 0
    rounds: list[int] = field(default_factory=list)
    in_vain: int = 0
    ended: str | None = None

    @property
    def is_awake(self) -> bool:
        return self.ended is None and self.frozen_s is None


class World:
    """See above.

    Args:
        plan: what is run.
        says_later: what is said without a connection is said on the next one; otherwise it is lost.
        has_rivals: more than one server may be alive at the same time.

    Attributes:
        faults: how many there were; so much more than usual may be said.
        batches: how often each (incarnation, client, round, step) went through the tail.
        tensors: how often each message with a tensor was said, by (incarnation, client, kind, round, step).
        metrics: of each round that was closed.
        rounds_done: in the checkpoint of the server in charge.
        servers: all that were started, the newest last.
        ended: why the run has ended; None while it has not.
    """

    def __init__(self, plan: Plan = PLAN, *, says_later: bool = False, has_rivals: bool = False) -> None:
        self.plan = plan
        self.says_later = says_later
        self.has_rivals = has_rivals
        self.now_s = 0.0
        self.faults = 0
        self.batches: Counter[tuple[int, str, int, int]] = Counter()
        self.tensors: Counter[tuple[int, str, str, int, int]] = Counter()
        self.rounds_done = 0
        self.dropped: list[Dropped] = []
        self.metrics: list[float | None] = []
        self.ended: str | None = None
        self.said: Counter[str] = Counter()
        self._tokens = itertools.count(1)
        self._sessions = itertools.count(1)
        self._state: RunState | None = None
        self._statuses: dict[str, Status] = {}
        self.servers: list[Server] = []
        self.clients: dict[str, Client] = {}
        self.start_server()
        for name in plan.clients:
            self.start_client(name)

    @property
    def end_is_said(self) -> bool:
        """Whether the run has ended, and that is the last that was said of it."""
        return self.ended is not None and self.said_last == "finished"

    @property
    def said_last(self) -> str:
        """What the retained state says of the run."""
        return self._state.phase if self._state else ""

    # Servers come and go.

    @property
    def server(self) -> Server:
        """The newest one."""
        return self.servers[-1]

    def start_server(self, *, takeover: bool = False) -> None:
        """Start one more server from the last checkpoint."""
        incarnation, token = len(self.servers) + 1, next(self._tokens)
        plan = replace(self.plan, incarnation=incarnation, token=token, takeover=takeover)
        core = ServerCore(plan, Ledger(), self.rounds_done)
        self.servers.append(Server(core, rounds_before=self.rounds_done))
        self.connect_server(self.server)

    def connect_server(self, server: Server) -> None:
        """Connect a server; it gets what is retained."""
        server.connected = True
        server.will = RunState("away", server.core.incarnation, server.core.token)
        server.inbox.extend((name, status) for name, status in self._statuses.items())
        if self._state is not None:
            server.inbox.append(("", self._state))
        unsaid, server.unsaid = server.unsaid, []
        for publish in unsaid if self.says_later else ():
            self._publish(publish)
        self.feed_server(server, Online())

    def lose_server(self, server: Server, *, will: bool = True) -> None:
        """Cut a server off; the broker says its will."""
        server.connected = False
        if server.frozen_s is None:
            server.inbox.clear()
        if will and server.will is not None:
            self._say_state(server.will)

    def kill_server(self, server: Server) -> None:
        """End a server's process."""
        server.ended = "killed"
        if server.connected:
            self.lose_server(server)

    # Clients come and go.

    def start_client(self, name: str) -> None:
        """Start a device that knows nothing of what was before."""
        hello = Hello(0, "same", 9, held_out=HELD_OUT[name] if self.plan.held_out else 0)
        core = ClientCore("r", name, hello, next(self._sessions) * 1000)
        self.clients[name] = Client(core, anew=name in self.clients)
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
        """Cut a device off; the broker says its will, now or not at all. A frozen one has read what came."""
        client = self.clients[name]
        client.connected = False
        if not self.says_later:
            client.up.clear()
        if client.frozen_s is None:
            client.down.clear()
        if will:
            self._say_status(name, Status(online=False, session=client.core.session))

    def restart_broker(self, *, persistent: bool) -> None:
        """Break every connection without a will; without persistence what was retained is lost, too."""
        for name in self.clients:
            self.lose_client(name, will=False)
        for server in self.servers:
            self.lose_server(server, will=False)
        if not persistent:
            self._state = None
            self._statuses.clear()

    # What they say.

    def feed_server(self, server: Server, event: ServerEvent) -> None:
        """Let something happen to a server."""
        if server.ended is None:
            had_begun = has_begun(server)
            actions = server.core.handle(event, self.now_s)
            assert had_begun or server.connected or not has_begun(server), "a server begins that hears nobody"
            for action in actions:
                self._of_server(server, action)

    def _of_server(self, server: Server, action: ServerAction) -> None:
        match action:
            case Publish(topic, message):
                self._count(message, topics.parse(topic).client, server.core.incarnation)
                self._publish(action) if server.connected else server.unsaid.append(action)
            case Compute(job):
                assert server.job is None, "one job at a time"
                server.job = job
            case StartTimer(key, delay_s):
                assert delay_s >= 0
                server.timers[key] = self.now_s + delay_s
            case CancelTimer(key):
                server.timers.pop(key, None)
            case Report(RoundReport(round=number, metric=metric)):
                evaluated = self.plan.held_out and self.plan.evaluates(number)
                assert metric is None or (evaluated and metric == 1.0)
                self.metrics.append(metric)
                self._closed(server, number)
            case Report(Dropped() as dropped):
                self.dropped.append(dropped)
            case Done(reason):
                server.ended = reason
                server.connected = False
                if reason == "complete" and self._is_in_charge(server):
                    self.ended = reason
            case _:
                pass

    def _closed(self, server: Server, number: int) -> None:
        assert number <= self.plan.rounds, "a round beyond the last one"
        server.rounds.append(number)
        if self._is_in_charge(server):
            self.rounds_done = number
        else:
            server.in_vain += 1

    def _is_in_charge(self, server: Server) -> bool:
        """Whether no server with a higher incarnation has begun; what another one writes does not count."""
        mine = (server.core.incarnation, server.core.token)
        return all((s.core.incarnation, s.core.token) <= mine for s in self.servers if has_begun(s))

    def _publish(self, publish: Publish) -> None:
        message = publish.message
        if isinstance(message, RunState):
            self._say_state(message)
        elif isinstance(message, Claim):
            for each in self.servers:
                if each.connected:
                    each.inbox.append(("", message))
        else:
            client = self.clients[topics.parse(publish.topic).client]
            if client.connected:
                client.down.append(message)

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
                if client.connected or self.says_later:
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
            step = message.first_step if isinstance(message, Assignment) else getattr(message, "step", 0)
            self.tensors[incarnation, client, type(message).__name__, message.round, step] += 1

    def _say_state(self, state: RunState) -> None:
        self._state = state
        for client in self.clients.values():
            if client.connected:
                client.down.append(state)
        for server in self.servers:
            if server.connected:
                server.inbox.append(("", state))

    def _say_status(self, name: str, status: Status) -> None:
        self._statuses[name] = status
        for server in self.servers:
            if server.connected:
                server.inbox.append((name, status))

    # What happens to what they say.

    def up(self, name: str) -> None:
        """Let the broker pass the next message of a device on to all servers, or to nobody."""
        message = self.clients[name].up.popleft()
        for server in self.servers:
            if server.connected:
                server.inbox.append((name, message))

    def down(self, name: str) -> None:
        """Deliver the next message to a device."""
        self.feed_client(name, Received("", self.clients[name].down.popleft(), 1))

    def hear(self, number: str) -> None:
        """Deliver the next message to a server."""
        server = self.servers[int(number)]
        self.feed_server(server, Received(*server.inbox.popleft(), 1))

    def compute(self, number: str) -> None:
        """Let a server's tail finish its job."""
        server = self.servers[int(number)]
        job, server.job = server.job, None
        result: TailResult = None
        match job:
            case TailForward(batches=forward):
                self._count_batches(server, job.waited)
                result = TailForwarded({client: bytes(4 * F) for client, _ in forward})
            case TailStep(batches=batches, returned=returned):
                assert bool(returned) == self.plan.u_shape
                self._count_batches(server, job.waited)
                result = TailStepped(
                    {name: (bytes(4 * D), 0.0) for name, _, _ in batches}, 1.0 * len(batches), len(batches)
                )
            case ScoreBatches(batches=held_out):
                self._count_batches(server, dict(held_out))
                result = Scored({client: (1.0, 1) for client, _ in held_out})
            case EncodeHead():
                result = HeadEncoded(bytes(4 * P))
            case EncodeChanges(since=since):
                result = ChangesEncoded(dict.fromkeys(since, bytes(4 * P)))
            case CloseRound(updates=updates):
                for client, update, _ in updates:
                    steps = range(len(update.batches))
                    learned = [
                        self.batches[server.core.incarnation, client, update.round, step] for step in steps
                    ]
                    assert learned == [1] * len(steps), "a batch that came with an update is not learned"
                result = RoundClosed(HeadEncoded(bytes(4 * P)), None, {})
            case TailUpdate() | None:
                pass
        if job is not None:
            self.feed_server(server, ComputeDone(job, result))

    def _count_batches(self, server: Server, messages: Mapping[str, BatchUp]) -> None:
        for client, message in messages.items():
            self.batches[server.core.incarnation, client, message.round, message.step] += 1

    def work(self, name: str) -> None:
        """Let a device finish its job."""
        client = self.clients[name]
        job, client.job = client.job, None
        if isinstance(job, FirstBatch) and not self._has_head(client, job.assignment):
            self.feed_client(name, ComputeDone(job, WireError("order", "a change of another head")))
            return
        answer: BatchUp | HeadUpdate | Scores
        match job:
            case FirstBatch(assignment=a) if not a.steps:
                count = self.plan.local_steps
                along = ((1, bytes(4 * D), bytes(1)),) * self.plan.batches_along(a.round)
                answer = HeadUpdate(a.server, a.round, 1, count, 0.0, bytes(4 * P), along)
            case FirstBatch(assignment=a):
                client.batch = bytes(codec_from_wire(a.codecs[0]).size_bytes(1, D))
                answer = Activations(a.server, a.round, a.first_step, 1, 1, client.batch, self._targets)
            case TopStep(features=f):
                answer = FeatureGradient(f.server, f.round, f.step + 1, 1, 1, bytes(4 * F), 1.0)
            case HeldOutBatch(round=number, step=step) if self.plan.u_shape and step > HELD_OUT[name] + 4:
                server, kept = client.core._server, HELD_OUT[name]
                answer = Scores(server, number, step, 1, kept, 1.0 * kept)
            case HeldOutBatch(round=number, step=step):
                server = client.core._server
                answer = Activations(server, number, step, 1, 1, client.batch, self._targets)
            case BackwardStep(gradient=g, last=False):
                answer = Activations(g.server, g.round, g.step + 1, 1, 1, client.batch, self._targets)
            case BackwardStep(gradient=g):
                answer = HeadUpdate(g.server, g.round, 1, self.plan.local_steps, 0.0, bytes(4 * P))
            case _:
                return
        self.feed_client(name, ComputeDone(job, answer))

    def _has_head(self, client: Client, begun: Assignment) -> bool:
        """Let a device take a head; says whether it has what that is a change of.

        One that was started anew may not, in the round under way before the server has heard of it.
        """
        assert not begun.since or self.plan.head_since_last
        assert not (begun.since and begun.first_step)
        if begun.since and begun.since not in client.heads:
            client.refused.add(begun.round)
            assert len(client.refused) <= client.anew, "a device is sent changes of a head that it has not"
            return False
        if not begun.first_step:
            client.heads = {begun.since, begun.round} - {0}
        return True

    @property
    def _targets(self) -> bytes:
        return b"" if self.plan.u_shape else bytes(1)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and the timers that run out meanwhile fire, each at its time.

        Those of a frozen server fire when it wakes. The broker gives up who has been frozen for long.
        """
        until_s = self.now_s + seconds
        while True:
            due = [
                (at_s, key, server)
                for server in self.servers
                if server.is_awake
                for key, at_s in server.timers.items()
                if at_s <= until_s
            ]
            if not due:
                break
            _, key, server = min(due, key=lambda each: each[:2])
            self.now_s = max(self.now_s, server.timers.pop(key))
            self.feed_server(server, TimerFired(key))
        self.now_s = until_s
        for name, client in self.clients.items():
            if client.connected and client.frozen_s is not None and until_s > client.frozen_s + UNNOTICED_S:
                self.lose_client(name)
        for server in self.servers:
            if server.connected and server.frozen_s is not None and until_s > server.frozen_s + UNNOTICED_S:
                self.lose_server(server)

    def busy(self) -> Iterator[str]:
        """Give the names of what can happen without time passing."""
        for number, server in enumerate(self.servers):
            if server.is_awake and server.inbox:
                yield f"hear {number}"
            if server.is_awake and server.job is not None:
                yield f"compute {number}"
        for name, client in self.clients.items():
            if client.up and client.connected:
                yield f"up {name}"
            if client.down and client.frozen_s is None:
                yield f"down {name}"
            if client.job is not None and client.frozen_s is None:
                yield f"work {name}"

    def do(self, what: str) -> None:
        """Let something of `busy` happen."""
        verb, _, name = what.partition(" ")
        getattr(self, verb)(name)

    def reconnect(self) -> None:
        """Wake everybody, start a server if there is none, and connect all."""
        if not self.end_is_said and all(server.ended is not None for server in self.servers):
            self.start_server()  # also where the end of the run was never said
        for name, client in self.clients.items():
            client.frozen_s = None
            if not client.connected and client.left is None:
                self.connect_client(name)
        for server in self.servers:
            server.frozen_s = None
            if server.ended == "complete":  # a transport's last words outlive a lost connection
                for action in server.unsaid:
                    self._publish(action)
                server.unsaid.clear()
            if not server.connected and server.ended is None:
                self.connect_server(server)

    def hear_all(self) -> None:
        """Stop all faults and let everybody be heard for a quarter of an hour; nobody works meanwhile."""
        for _ in range(30):
            self.reconnect()
            while possible := [what for what in self.busy() if not what.startswith(("compute", "work"))]:
                self.do(possible[0])
            self.pass_time(30.0)

    def settle(self) -> None:
        """Stop all faults and let the run come to its end, within a day and 20,000 events.

        When its end was said, every client has heard of it and left. If it never was, a server is started
        that says it, after it has seen that it has no rival.
        """
        end_s = self.now_s + 86_400
        for _ in range(20_000):
            self.reconnect()
            what = next(self.busy(), None)
            if what is not None:
                self.do(what)
                continue
            if self.end_is_said:
                assert {client.left for client in self.clients.values()} == {self.ended}
                return
            timers = [at_s for server in self.servers if server.is_awake for at_s in server.timers.values()]
            assert timers, "nothing will ever happen again"
            assert self.now_s < end_s, "the run has not ended within a day"
            self.pass_time(max(0.0, min(timers) - self.now_s))
        raise AssertionError("too many events")


def has_begun(server: Server) -> bool:
    """Say whether a server has taken charge of the run."""
    return server.core._phase not in (Phase.STARTING, Phase.LEFT)
