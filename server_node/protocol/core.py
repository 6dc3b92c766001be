"""The server's half of the protocol: its rounds, who is there, and what is done with bad messages.

    starting -> gathering -> round 1 .. rounds -> finished
    a round:  Assignment to the cohort
              each step: Activations arrive -> TailStep on those that wait -> Gradient; then TailUpdate
              HeadUpdates arrive -> CloseRound

One job runs at a time; activations that arrive meanwhile form the next TailStep together. Nothing is repeated
by the clock: a member that is silent is asked how far it is, and is told again what it lacks. Only the server
has timers:

    claim            no other server has answered; claim once more, and begin when that comes back
    join             the fleet had its time to appear; start with those who did, and call the others again
    deadline         from here on the round makes do with fewer members
    ask              a member may have been silent for too long (server_node.protocol.cohort)
    rejoin:<client>  a member of the cohort vanished; when it fires the round goes on without it
    quiet:<client>   its greetings and errors are answered at most once while this runs
    call             clients that are online and have not greeted are asked to; a greeting may have been lost
    end              the broker was away for so long that the end of the run stays unsaid
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

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
from broker.wire.messages import Claim, Message, RunScenario, RunState, StopRun
from server_node.protocol.cohort import ASK, Cohort
from server_node.protocol.exchange import Exchange, Turn
from server_node.protocol.phase import Phase
from server_node.protocol.reception import Reception
from server_node.protocol.rivals import Rivals, Verdict
from server_node.protocol.rounds import Rounds
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.jobs import Diverged, TailJob, TailResult
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Gathering
from server_node.vocabulary.tally import Tally

CLAIM_S = 5.0
"""How long a server that seems to be at work may take to answer a claim."""
END_S = 600.0
"""How long a server whose run is over waits for a broker that is away, to say so."""


class ServerCore:
    """The state machine of the server in one run.

    Args:
        plan: see Plan.
        ledger: counts every message between the server and its clients.
        rounds_done: above 0 when a checkpoint was restored.
    """

    def __init__(self, plan: Plan, ledger: Ledger, rounds_done: int = 0) -> None:
        self._plan = plan
        self._ledger = ledger
        self._tally = Tally(ledger, plan.packet_bytes)
        if plan.u_shape:
            ledger.expect_features()
        self._phase = Phase.STARTING
        self._conclusion = ""  # why the run is over, while it is not known whether this server may say so
        self._rivals = Rivals(
            plan.incarnation, plan.token, takeover=plan.takeover, one_connection=plan.one_connection
        )
        self._cohort = Cohort(plan, ledger, rounds_done)
        self._rounds = Rounds(plan, self._cohort)
        self._reception = Reception(plan, ledger, self._rivals, self._cohort)
        self._presence = self._reception.presence

    @property
    def incarnation(self) -> int:
        """Its place among the servers that the run has had."""
        return self._rivals.incarnation

    @property
    def number_of_will(self) -> int:
        """The incarnation that a last will may claim: its own number only when this server has begun."""
        return self._plan.incarnation if self._phase is Phase.STARTING else self._rivals.incarnation

    @property
    def token(self) -> int:
        """Tells it apart from others that start at the same moment."""
        return self._rivals.token

    @property
    def online(self) -> AbstractSet[str]:
        """Clients that are there; changes as they come and go."""
        return self._presence.online

    @property
    def members(self) -> Mapping[str, Exchange]:
        """Clients at work, each with its exchange; changes with what they say."""
        return self._cohort.members

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """Take one event and say what is to be done.

        Args:
            event: what happened.
            now_s: seconds on a clock that never goes back.
        """
        if self._phase.is_over:
            return []
        return self._tally.says([*self._happened(event, now_s), *self._advance(now_s)])

    def take_answers(self, answers: Iterable[tuple[str, Message, int, float]]) -> list[ServerAction]:
        """Take what clients say (who, what, in how many bytes of packets, when) until anything is to be done.

        It does what `handle` does of each, and asks for one after the other.
        """
        if self._phase.is_over:
            return []
        received, advance = self._reception.received, self._advance
        taken: list[tuple[Message, int]] = []
        actions = list[ServerAction]()
        for sender, message, wire_bytes, now_s in answers:
            taken.append((message, wire_bytes))
            actions = [*received(sender, message, now_s), *advance(now_s)]
            if actions:
                break
        self._tally.hears(taken)
        return self._tally.says(actions)

    def _happened(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        if isinstance(event, Received):  # most are; `match` would ask for each field of each pattern
            if not event.sender:
                return self._heard(event.message)
            self._ledger.receive(event.message, event.wire_bytes)
            return self._reception.received(event.sender, event.message, now_s)
        match event:
            case ComputeDone(job, result):
                return self._computed(job, result, now_s)
            case TimerFired(key):
                return self._timer(key, now_s)
            case Online():
                return self._connected(now_s)
            case Undecodable(sender, error, wire_bytes):
                self._ledger.receive_undecodable(wire_bytes)
                return self._reception.undecodable(sender, error) if sender else []
            case StopAsked(reason):
                return self._pause(reason)

    # The connection, and other servers.

    def _connected(self, now_s: float) -> list[ServerAction]:
        self._reception.connected()
        if self._phase is Phase.STARTING:
            if self._rivals.connected() is Verdict.GIVE_WAY:
                return self._leave(ANOTHER_SERVER)
            return self._open() if self._plan.alone else [CancelTimer("claim"), self._claim()]
        # Another server may have followed it meanwhile; its own claim comes back after that one's state.
        return [*(self._announce() if self._plan.alone else [self._claim()]), *self._cohort.ask_all(now_s)]

    def _heard(self, message: Message) -> list[ServerAction]:
        """Take what servers and operators say to servers."""
        if isinstance(message, StopRun):
            return self._finish(self._conclusion or message.reason or ENDED)
        return self._heard_rival(message) if isinstance(message, RunState | Claim) else []

    def _heard_rival(self, message: RunState | Claim) -> list[ServerAction]:
        match self._rivals.hear(message, begun=self._phase is not Phase.STARTING):
            case Verdict.BEGIN:
                return self._open()
            case Verdict.WAIT:
                return [StartTimer("claim", CLAIM_S)]
            case Verdict.GIVE_WAY:
                return self._leave(ANOTHER_SERVER)
            case Verdict.SUPERSEDED:
                return self._leave(SUPERSEDED)
            case Verdict.OVER if isinstance(message, RunState):
                over = Publish(topics.state(self._plan.run), self._rivals.own(message), retain=True)
                return [over, *self._leave(ANOTHER_SERVER)]
            case Verdict.ANSWER:
                return [self._claim()]
            case Verdict.SAY_STATE:
                may_end = self._conclusion and isinstance(message, Claim)  # its own
                return self._finish(self._conclusion) if may_end else self._announce()
            case _:
                return []

    def _claim(self) -> Publish:
        return Publish(topics.server(self._plan.run), self._rivals.claim())

    def _open(self) -> list[ServerAction]:
        """Take charge of the run."""
        if self._cohort.number >= self._plan.rounds:
            return self._finish(COMPLETE)
        self._phase = Phase.GATHERING
        return [*self._announce(), self._rounds.encode_head(), StartTimer("join", self._plan.join_s)]

    def _announce(self) -> list[ServerAction]:
        """Say what the run is, and how far; the scenario first, for who hears of a run looks for it."""
        told = RunScenario(self._plan.scenario, self._plan.model)
        scenario = Publish(topics.scenario(self._plan.run), told, retain=True)
        return [*([scenario] if told.packed else ()), self._state()]

    def _timer(self, key: str, now_s: float) -> list[ServerAction]:
        kind, _, client = key.partition(":")
        match kind:
            case "claim" if self._phase is Phase.STARTING:
                self._rivals.no_answer()
                return [self._claim()]
            case "end":
                return self._leave(self._conclusion)
            case "call":
                return self._reception.call(in_charge=self._phase is not Phase.STARTING)
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
                return self._reception.quiet_is_over(client, now_s)
        return []

    # Rounds.

    def _computed(self, job: TailJob, result: TailResult, now_s: float) -> list[ServerAction]:
        if isinstance(result, Diverged):
            return self._conclude(f"diverged: {result.why}")
        online, held_out = len(self._presence.online), self._presence.evaluators()
        actions, refused = self._rounds.computed(job, result, now_s, online=online, held_out=held_out)
        refusals = [
            action for client, error in refused.items() for action in self._reception.refuse(client, error)
        ]
        return [*refusals, *actions]

    def _advance(self, now_s: float) -> list[ServerAction]:
        """Start the next job or round if nothing is in its way."""
        if self._phase.is_over or self._conclusion:
            return []
        if self._rounds.job is not None:  # most messages come while the tail is at work
            return self._cohort.timer(now_s)
        actions = self._rounds.next_job(now_s)
        if not self._rounds.is_idle:
            return [*actions, *self._cohort.timer(now_s)]
        if self._phase is Phase.RUNNING and self._cohort.number >= self._plan.rounds:
            return [*actions, *self._conclude(COMPLETE)]
        online = self._presence.online
        if self._phase.may_begin(self._plan, len(online), len(self._presence.empty)):
            if self._phase.is_gathering:
                self._phase, self._reception.gathers = Phase.RUNNING, False
                actions += [Report(Gathering(len(online))), self._state(), CancelTimer("join")]
            actions += self._rounds.begin(online, self._rivals.incarnation, now_s)
        return [*actions, *self._rounds.next_job(now_s), *self._cohort.timer(now_s)]

    # How the run ends.

    def _state(self, reason: str = "") -> Publish:
        phase, number, rivals = self._phase.on_the_wire, self._cohort.number, self._rivals
        state = RunState(phase, rivals.incarnation, rivals.token, number, self._plan.rounds, reason)
        return Publish(topics.state(self._plan.run), state, retain=True)

    def _pause(self, reason: str) -> list[ServerAction]:
        """Leave the run as it is: clients wait, and the server can be started again."""
        if self._phase is Phase.STARTING or self._conclusion:
            return self._leave(self._conclusion or reason)
        return self._end(Phase.PAUSED, reason)

    def _conclude(self, reason: str) -> list[ServerAction]:
        """End the run when a claim has come back: by then this server knows whether another has followed."""
        if self._plan.alone:
            return self._finish(reason)
        self._conclusion = reason
        return [self._claim(), StartTimer("end", END_S)]

    def _finish(self, reason: str) -> list[ServerAction]:
        """End the run for good: clients leave."""
        return self._end(Phase.FINISHED, reason)

    def _end(self, phase: Phase, reason: str) -> list[ServerAction]:
        self._phase = phase
        return [self._state(reason), Done(reason)]

    def _leave(self, reason: str) -> list[ServerAction]:
        """Leave without a word: the run is another server's, or nobody hears it."""
        self._phase = Phase.LEFT
        return [Done(reason)]
