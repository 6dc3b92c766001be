"""The server's half of the protocol: its rounds, who is there, and what is done with bad messages.

    starting -> gathering -> round 1 .. rounds -> finished
    a round:  Assignment to the cohort
              each step: Activations arrive -> TailStep on those that wait -> Gradient; then TailUpdate
              HeadUpdates arrive -> CloseRound

One job runs at a time; activations that arrive meanwhile form the next TailStep together. Nothing is repeated
by the clock: a member that is silent is asked how far it is, and is told again what it lacks. Only the server
has timers:

    claim            no other server has answered; begin
    join             the fleet had its time to appear; start with those who did, and call the others again
    deadline         from here on the round makes do with fewer members
    ask              a member may have been silent for too long (server_node.protocol.cohort)
    rejoin:<client>  a member of the cohort vanished; when it fires the round goes on without it
    quiet:<client>   its greetings and errors are answered at most once while this runs
    call             clients that are online and have not greeted are asked to; a greeting may have been lost
"""

from broker.exits import ANOTHER_SERVER, COMPLETE, ENDED, SUPERSEDED
from broker.machine.actions import (
    CancelTimer,
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
    Claim,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    RunScenario,
    RunState,
    Status,
    StopRun,
    Welcome,
)
from scenarios.schema.network import tell_names
from server_node.protocol.actions import ServerAction, ServerEvent
from server_node.protocol.admission import check_greeting
from server_node.protocol.cohort import ASK, Cohort
from server_node.protocol.exchange import Turn
from server_node.protocol.jobs import (
    Diverged,
    TailJob,
    TailResult,
)
from server_node.protocol.ledger import Ledger
from server_node.protocol.phase import Phase
from server_node.protocol.plan import Plan
from server_node.protocol.presence import QUIET_S, Presence, RateLimit
from server_node.protocol.reports import Gathering, Noticed, Refused
from server_node.protocol.rivals import Rivals, Verdict
from server_node.protocol.rounds import Rounds

CLAIM_S = 5.0
"""How long a server that seems to be at work may take to answer a claim."""

CALL_S = 10.0
"""How long a client that says that it is online may take to greet before it is asked to."""


class ServerCore:
    """The state machine of the server in one run.

    Args:
        plan: see Plan.
        ledger: counts every message between the server and its clients.
        rounds_done: above 0 when a checkpoint was restored.
    """

    def __init__(self, plan: Plan, ledger: Ledger, rounds_done: int = 0) -> None:
        self._plan = plan
        self._roster = frozenset(plan.clients)
        self._ledger = ledger
        self._phase = Phase.STARTING
        self._presence = Presence()
        self._rate_limit = RateLimit()
        self._rivals = Rivals(plan.incarnation, plan.token, takeover=plan.takeover)
        self._cohort = Cohort(plan, ledger, rounds_done)
        self._rounds = Rounds(plan, self._cohort)
        self._call_s = CALL_S  # from one call to the next; they become rarer until the next connection
        self._calls = False  # whether the timer runs

    @property
    def incarnation(self) -> int:
        """Its place among the servers that the run has had."""
        return self._rivals.incarnation

    @property
    def token(self) -> int:
        """Tells it apart from others that start at the same moment."""
        return self._rivals.token

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """Take one event and say what is to be done.

        Args:
            event: what happened.
            now_s: seconds on a clock that never goes back.
        """
        if self._phase.is_over:
            return []
        match event:
            case Received(sender, message, wire_bytes):
                if sender:
                    self._ledger.receive(message, wire_bytes)
                    actions = self._received(sender, message, now_s)
                else:
                    actions = self._heard(message)
            case ComputeDone(job, result):
                actions = self._computed(job, result, now_s)
            case TimerFired(key):
                actions = self._timer(key, now_s)
            case Online():
                actions = self._connected(now_s)
            case Undecodable(sender, error, wire_bytes):
                self._ledger.receive_undecodable(wire_bytes)
                actions = self._undecodable(sender, error) if sender else []
            case StopAsked(reason):
                actions = self._pause(reason)
        actions += self._advance(now_s)
        for action in actions:
            if isinstance(action, Publish) and not isinstance(action.message, Claim):
                self._ledger.publish(action.topic, action.message, self._plan.packet_bytes)
        return actions

    # The connection, and other servers.

    def _connected(self, now_s: float) -> list[ServerAction]:
        self._call_s = CALL_S
        claim = Publish(topics.server(self._plan.run), self._rivals.claim())
        if self._phase is Phase.STARTING:
            return self._open() if self._plan.alone else [claim]
        # Another server may have followed it meanwhile; its own claim comes back after that one's state.
        return [*(self._announce() if self._plan.alone else [claim]), *self._cohort.ask_all(now_s)]

    def _heard(self, message: Message) -> list[ServerAction]:
        """Take what servers and operators say to servers."""
        if isinstance(message, StopRun):
            return self._finish(message.reason or ENDED)
        if not isinstance(message, RunState | Claim):
            return []
        match self._rivals.hear(message, begun=self._phase is not Phase.STARTING):
            case Verdict.BEGIN:
                return self._open()
            case Verdict.WAIT:
                return [StartTimer("claim", CLAIM_S)]
            case Verdict.GIVE_WAY:
                return self._leave(ANOTHER_SERVER)
            case Verdict.SUPERSEDED:
                return self._leave(SUPERSEDED)
            case Verdict.ANSWER:
                return [Publish(topics.server(self._plan.run), self._rivals.claim())]
            case Verdict.SAY_STATE:
                return self._announce()
            case Verdict.NOTHING:
                return []

    def _open(self) -> list[ServerAction]:
        """Take charge of the run."""
        if self._cohort.number >= self._plan.rounds:
            return self._finish(COMPLETE)
        self._phase = Phase.GATHERING
        return [*self._announce(), self._rounds.encode_head(), StartTimer("join", self._plan.join_s)]

    def _announce(self) -> list[ServerAction]:
        """Say what the run is, and how far; the scenario first, for who hears of a run looks for it."""
        packed = self._plan.scenario
        scenario = Publish(topics.scenario(self._plan.run), RunScenario(packed), retain=True)
        return [*([scenario] if packed else ()), self._state()]

    # What clients say.

    def _received(self, sender: str, message: Message, now_s: float) -> list[ServerAction]:
        if sender not in self._roster:
            fleet = tell_names(self._plan.clients)
            return self._refuse(sender, WireError("roster", f"{sender!r} is no client of this run; {fleet}"))
        match message:
            case Activations() | HeadUpdate() | Progress() if message.server != self._rivals.incarnation:
                self._ledger.discarded_late += 1
                return []
            case Activations():
                error = self._cohort.take_activations(sender, message, now_s)
                return self._appeared(sender) if error is None else self._refuse(sender, error)
            case HeadUpdate():
                error = self._cohort.take_update(sender, message, now_s)
                return self._appeared(sender) if error is None else self._refuse(sender, error)
            case Progress():
                return [*self._appeared(sender), *self._cohort.repair(sender, message, now_s)]
            case Hello():
                return self._greeted(sender, message, now_s)
            case Status(online=True, session=session):
                self._presence.says_online(sender, session)
                return self._await_greetings()
            case Status(session=session):
                return self._vanished(sender, session)
            case _:
                kind = type(message).__name__
                return self._refuse(sender, WireError("direction", f"a client does not send {kind}"))

    def _appeared(self, client: str) -> list[ServerAction]:
        """Note a sign of life: whoever speaks is there."""
        self._presence.ungreeted.discard(client)
        if client in self._presence.online:
            return []
        self._presence.online.add(client)
        actions: list[ServerAction] = [CancelTimer(f"rejoin:{client}")]
        if self._phase.is_gathering:
            actions.append(Report(Gathering(len(self._presence.online))))
        return actions

    def _greeted(self, client: str, hello: Hello, now_s: float) -> list[ServerAction]:
        self._presence.ungreeted.discard(client)
        differs = check_greeting(self._plan, hello)
        if differs is not None:
            return self._refuse(client, differs)
        self._presence.says_online(client, hello.session)
        actions = self._appeared(client)
        if hello.package and hello.package != self._plan.package and self._presence.notice(client):
            packages = f"has version {hello.package} of the package, the server {self._plan.package}"
            actions.append(Report(Noticed(client, packages)))
        if client in self._rate_limit:
            self._rate_limit.postpone(client, hello)
            return actions
        actions.append(self._keep_quiet(client))
        if hello.wants_welcome:
            actions.append(Publish(topics.down(self._plan.run, client), self._welcome()))
        return [*actions, *self._cohort.greeted(client, now_s)]

    def _await_greetings(self) -> list[ServerAction]:
        """Let some time pass before clients that are online are asked to greet.

        A client greets when it hears of a server. When the broker has started anew, it may be back before the
        server is, and greet nobody.
        """
        if self._calls or not self._presence.ungreeted:
            return []
        self._calls = True
        return [StartTimer("call", self._call_s)]

    def _call(self) -> list[ServerAction]:
        self._calls = False
        self._call_s = min(2 * self._call_s, self._plan.retry_s)
        if self._phase is Phase.STARTING:
            return self._await_greetings()
        call = Released(self._rivals.incarnation, 0, greet=True)
        silent = sorted(self._presence.ungreeted)
        calls = [Publish(topics.down(self._plan.run, client), call) for client in silent]
        return [*calls, *self._await_greetings()]

    def _vanished(self, client: str, session: int) -> list[ServerAction]:
        if not self._presence.says_offline(client, session):
            return []
        self._rate_limit.forget_greeting(client)
        if client not in self._cohort.members:
            return []
        return [StartTimer(f"rejoin:{client}", self._plan.rejoin_s)]

    def _timer(self, key: str, now_s: float) -> list[ServerAction]:
        kind, _, client = key.partition(":")
        match kind:
            case "claim" if self._phase is Phase.STARTING:
                return self._open()
            case "call":
                return self._call()
            case "join" if self._phase.is_gathering:
                self._phase = Phase.LATE
                return [self._state(), StartTimer("join", self._plan.join_s)]
            case "deadline" if self._cohort.round is not None:
                self._cohort.round.overdue = True
            case _ if kind == ASK:
                return self._cohort.ask_the_silent(now_s)
            case "rejoin" if client not in self._presence.online:
                member = self._cohort.members.get(client)
                done = member is None or member.turn is Turn.DONE
                return [] if done else self._cohort.drop(client)
            case "quiet":
                greeting = self._rate_limit.end(client)
                return [] if greeting is None else self._greeted(client, greeting, now_s)
        return []

    # Rounds.

    def _computed(self, job: TailJob, result: TailResult, now_s: float) -> list[ServerAction]:
        if isinstance(result, Diverged):
            return self._finish(f"diverged: {result.why}")
        online = len(self._presence.online)
        actions, refused = self._rounds.computed(job, result, now_s, online=online)
        refusals = [action for client, error in refused.items() for action in self._refuse(client, error)]
        complete = self._cohort.round is None and self._cohort.number >= self._plan.rounds
        return [*refusals, *actions, *(self._finish(COMPLETE) if complete else ())]

    def _advance(self, now_s: float) -> list[ServerAction]:
        """Start the next job or round if nothing is in its way."""
        if self._phase.is_over:
            return []
        actions: list[ServerAction] = []
        if self._rounds.is_idle and self._may_begin():
            online = self._presence.online
            if self._phase.is_gathering:
                self._phase = Phase.RUNNING
                actions = [Report(Gathering(len(online))), self._state(), CancelTimer("join")]
            actions += self._rounds.begin(online, self._rivals.incarnation, now_s)
        return [*actions, *self._rounds.next_job(), *self._cohort.timer(now_s)]

    def _may_begin(self) -> bool:
        online = len(self._presence.online)
        match self._phase:
            case Phase.RUNNING:
                return online > 0
            case Phase.LATE:
                return online >= self._plan.cohort
            case _:
                return online >= len(self._plan.clients)

    def _welcome(self) -> Welcome:
        plan = self._plan
        return Welcome(
            self._rivals.incarnation,
            plan.batch_size,
            plan.local_steps,
            plan.cut_size,
            plan.classes,
            plan.targets_per_sample,
            plan.packet_bytes,
            plan.initial_head,
        )

    def _undecodable(self, sender: str, error: WireError) -> list[ServerAction]:
        """Refuse bytes that are no message. One of another version is told of once, and not answered.

        It may be retained from before an update, and its sender does not listen here.
        """
        if error.reason != "version":
            return self._refuse(sender, error)
        whose = sender if sender in self._roster else ""
        self._ledger.reject(whose or "strangers", error.reason, str(error))
        return [Report(Refused(sender, str(error)))] if self._presence.notice(whose) else []

    def _refuse(self, client: str, error: WireError) -> list[ServerAction]:
        """Count a bad message; tell its sender unless it was told something a moment ago."""
        whose = client if client in self._roster else ""  # strangers share one limit
        self._ledger.reject(whose or "strangers", error.reason, str(error))
        if whose in self._rate_limit:
            return []
        answer = Publish(topics.down(self._plan.run, client), Rejected(error.reason, str(error)[:512]))
        return [self._keep_quiet(whose), Report(Refused(client, str(error))), answer]

    def _keep_quiet(self, client: str) -> ServerAction:
        self._rate_limit.begin(client)
        return StartTimer(f"quiet:{client}", QUIET_S)

    # How the run ends.

    def _state(self, reason: str = "") -> Publish:
        plan, rivals = self._plan, self._rivals
        state = RunState(
            self._phase.on_the_wire,
            rivals.incarnation,
            rivals.token,
            self._cohort.number,
            plan.rounds,
            reason,
        )
        return Publish(topics.state(plan.run), state, retain=True)

    def _pause(self, reason: str) -> list[ServerAction]:
        """Leave the run as it is: clients wait, and the server can be started again."""
        if self._phase is Phase.STARTING:
            return self._leave(reason)
        return self._end(Phase.PAUSED, reason)

    def _finish(self, reason: str) -> list[ServerAction]:
        """End the run for good: clients leave."""
        return self._end(Phase.FINISHED, reason)

    def _end(self, phase: Phase, reason: str) -> list[ServerAction]:
        self._phase = phase
        return [self._state(reason), Done(reason)]

    def _leave(self, reason: str) -> list[ServerAction]:
        """Leave without a word: the run is another server's."""
        self._phase = Phase.LEFT
        return [Done(reason)]
