"""The server's half of the protocol: rounds, repetition, and what is done with bad messages.

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
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    HeadUpdate,
    Hello,
    Message,
    Rejected,
    RunState,
    Status,
)
from scenarios.schema.flows import Codecs
from server_node.protocol.admission import check_activations, check_update
from server_node.protocol.exchange import MAX_REPEATS, Exchange, Turn
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
from server_node.protocol.phase import Phase
from server_node.protocol.plan import Plan
from server_node.protocol.presence import QUIET_S, RateLimit, draw_cohort
from server_node.protocol.reports import Dropped, Fact, Gathering, Refused
from server_node.protocol.round import Round

ServerAction = Action[TailJob, Fact]
ServerEvent = Event[TailJob, TailResult]


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
        self._phase = Phase.STARTING
        self._number = rounds_done
        self._online: set[str] = set()
        self._rate_limit = RateLimit()
        self._members: dict[str, Exchange] = {}
        self._round: Round | None = None  # None between two rounds
        self._head = b""
        self._job: TailJob | None = (
            EncodeHead()
        )  # the one that is computed; the first is asked for when online

    def handle(self, event: ServerEvent) -> list[ServerAction]:
        """Take one event and say what is to be done."""
        match event:
            case Received():
                self._ledger.receive(event.message, event.wire_bytes)
                actions = self._received(event.sender, event.message)
            case ComputeDone(job, result):
                self._job = None
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

    # What comes in.

    def _connected(self) -> list[ServerAction]:
        if self._phase is Phase.STARTING:
            self._phase = Phase.GATHERING
            return [self._state(), Compute(EncodeHead()), StartTimer("join", self._plan.join_s)]
        actions: list[ServerAction] = [self._state()]
        for client in list(self._members):  # what clients said while we were away is lost
            actions += self._repeat(client)
        return actions

    def _received(self, sender: str, message: Message) -> list[ServerAction]:
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

    def _greeted(self, client: str, hello: Hello) -> list[ServerAction]:
        if hello.scenario != self._plan.digest:
            why = f"the device's scenario {hello.scenario} is not the server's {self._plan.digest}"
            return self._refuse(client, WireError("scenario", why))
        self._online.add(client)
        if client in self._rate_limit:
            self._rate_limit.postpone(client, hello)
            return []
        actions = [self._keep_quiet(client), CancelTimer(f"rejoin:{client}")]
        if self._phase.is_gathering:
            actions.append(Report(Gathering(len(self._online))))
        member = self._members.get(client)
        if member is None or member.turn is Turn.DONE:
            return actions
        if hello.round == member.assignment.round:
            return actions + self._repeat(client)
        if member.step <= 1:  # it lost its state; its first step comes out the same again
            return [*actions, Publish(topics.down(self._plan.run, client), member.start_over())]
        return actions + self._drop(client)

    def _vanished(self, client: str) -> list[ServerAction]:
        self._online.discard(client)
        self._rate_limit.forget_greeting(client)
        if client not in self._members:
            return []
        return [StartTimer(f"rejoin:{client}", self._plan.rejoin_s)]

    def _activations(self, client: str, message: Activations) -> list[ServerAction]:
        member = self._match_member(client, message.round, message.step)
        if isinstance(member, WireError):
            return self._refuse(client, member)
        if message.step >= self._plan.steps:
            return self._refuse(client, WireError("order", f"step {message.step} of {self._plan.steps}"))
        if member is None:
            return self._late()
        if message.step < member.step or member.turn is Turn.TAIL:
            return self._duplicate(client)
        error = check_activations(self._plan, self._plan.codecs_of(client), message)
        if error is not None:
            return self._refuse(client, error)
        member.take_activations(message)
        if self._round is not None:
            self._round.activations_came(client)
        return []

    def _head_update(self, client: str, message: HeadUpdate) -> list[ServerAction]:
        member = self._match_member(client, message.round, self._plan.steps)
        if isinstance(member, WireError):
            return self._refuse(client, member)
        if member is None:
            return self._late()
        if member.turn is Turn.DONE:
            return self._duplicate(client)
        error = check_update(self._plan, self._plan.codecs_of(client), message)
        if error is not None:
            return self._refuse(client, error)
        member.take_update(message)
        if self._round is not None:
            self._round.update_came(client)
        self._ledger.tensor("head_update_up", 1, self._plan.head_size)
        return []

    def _match_member(self, client: str, number: int, step: int) -> Exchange | WireError | None:
        """Give the member that an answer belongs to, None if the answer is late, or what is wrong with it."""
        if number > self._number:
            return WireError("order", f"round {number} has not begun")
        member = self._members.get(client)
        if member is None or number < member.assignment.round:
            return None
        if number > member.assignment.round or step > member.step:
            return WireError("order", f"round {number}, step {step} is not what comes next")
        return member

    def _duplicate(self, client: str) -> list[ServerAction]:
        self._ledger.duplicates += 1
        return self._repeat(client)

    def _late(self) -> list[ServerAction]:
        self._ledger.discarded_late += 1
        return []

    def _timer(self, key: str) -> list[ServerAction]:
        kind, _, client = key.partition(":")
        match kind:
            case "join" if self._phase.is_gathering:
                self._phase = Phase.LATE
                return [self._state(), StartTimer("join", self._plan.join_s)]
            case "deadline" if self._round is not None:
                self._round.overdue = True
            case "retry":
                return [*self._repeat_to_the_silent(), StartTimer("retry", self._plan.retry_s)]
            case "rejoin" if client not in self._online:
                member = self._members.get(client)
                return [] if member is None or member.turn is Turn.DONE else self._drop(client)
            case "quiet":
                greeting = self._rate_limit.end(client)
                return [] if greeting is None else self._greeted(client, greeting)
        return []

    def _repeat_to_the_silent(self) -> list[ServerAction]:
        actions: list[ServerAction] = []
        for client, member in list(self._members.items()):
            if member.silent:
                actions += self._repeat(client)
            member.silent = True
        return actions

    def _computed(self, job: TailJob, result: TailResult) -> list[ServerAction]:
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

    def _stepped(self, result: TailStepped) -> list[ServerAction]:
        actions: list[ServerAction] = []
        current, plan = self._round, self._plan
        assert current is not None
        current.add_losses(result)
        for client, outcome in result.gradients.items():
            if isinstance(outcome, WireError):
                actions += [*self._refuse(client, outcome), *self._drop(client)]
                continue
            member = self._members.get(client)
            if member is None or member.activations is None:
                continue  # it was dropped while its batch was in the tail
            batch, (payload, correction) = member.activations, outcome
            self._ledger.exchange(plan.codecs_of(client).activations_up, batch, plan.cut_size)
            actions.append(Publish(topics.down(plan.run, client), member.answer(correction, payload)))
            current.answered(client)
        return actions

    def _closed(self, job: CloseRound, result: RoundClosed) -> list[ServerAction]:
        current, self._round = self._round, None
        assert current is not None
        actions: list[ServerAction] = [CancelTimer("retry"), CancelTimer("deadline")]
        for client, error in result.refused.items():
            actions += self._refuse(client, error)
        for client, _, _ in job.updates:
            del self._members[client]
        self._head = result.head
        report = current.report(job, result, online=len(self._online))
        actions.append(Report(report))
        return actions + self._finish("complete") if job.round == self._plan.rounds else actions

    # What goes out.

    def _advance(self) -> list[ServerAction]:
        """Start the next job or round if nothing is in its way."""
        if self._job is not None or self._phase is Phase.FINISHED:
            return []
        if self._round is None:
            return self._begin_round() if self._may_begin() else []
        actions: list[ServerAction] = []
        self._job = self._round.batches()
        if self._job is None:
            if not self._round.is_enough():
                return []
            if not self._plan.round_policy.keeps_late_members:
                for client in list(self._round.behind):
                    actions += self._drop(client)
            self._job = self._round.next_job()
        return [*actions, Compute(self._job)]

    def _may_begin(self) -> bool:
        match self._phase:
            case Phase.RUNNING:
                return bool(self._online)
            case Phase.LATE:
                return len(self._online) >= self._plan.cohort
            case _:
                return len(self._online) >= len(self._plan.clients)

    def _begin_round(self) -> list[ServerAction]:
        actions: list[ServerAction] = []
        plan, policy = self._plan, self._plan.round_policy
        self._number += 1
        if self._phase.is_gathering:
            self._phase = Phase.RUNNING
            actions += [Report(Gathering(len(self._online))), self._state(), CancelTimer("join")]
        for client, member in list(self._members.items()):
            if self._number - member.assignment.round > (policy.max_staleness or 0):
                actions += self._drop(client)
        wanted = policy.choose - len(self._members)
        chosen = draw_cohort(
            plan.clients, self._online, self._members, wanted, seed=plan.seed, number=self._number
        )
        assignments: dict[int, Assignment] = {}  # one for all who share their codecs
        for client in chosen:
            codecs = plan.codecs_of(client)
            if id(codecs) not in assignments:
                assignments[id(codecs)] = self._assignment(codecs)
            assignment = assignments[id(codecs)]
            self._members[client] = Exchange(assignment)
            self._ledger.tensor("head_state_down", 1, plan.head_size)
            actions.append(Publish(topics.down(plan.run, client), assignment))
        self._round = Round(self._number, plan, self._members)
        if policy.deadline_s is not None:
            actions.append(StartTimer("deadline", policy.deadline_s))
        return [*actions, StartTimer("retry", plan.retry_s)]

    def _assignment(self, codecs: Codecs) -> Assignment:
        up, down, update, state = map(codec_to_wire, codecs)
        return Assignment(self._number, 1, self._plan.steps, (up, down, update, state), self._head)

    def _repeat(self, client: str) -> list[ServerAction]:
        """Say again what a member has not answered; after MAX_REPEATS go on without it."""
        member = self._members[client]
        if member.turn is not Turn.CLIENT:
            return []
        member.repeats += 1
        if member.repeats > MAX_REPEATS:
            self._online.discard(client)  # until it greets again
            return self._drop(client)
        return [Publish(topics.down(self._plan.run, client), member.again())]

    def _drop(self, client: str) -> list[ServerAction]:
        """Go on without a member; its answers are late from here on."""
        if self._members.pop(client, None) is None:
            return []
        if self._round is not None:
            self._round.left(client)
        return [CancelTimer(f"rejoin:{client}"), Report(Dropped(self._number, client))]

    def _refuse(self, client: str, error: WireError) -> list[ServerAction]:
        """Count a bad message; tell its sender unless it was told something a moment ago."""
        self._ledger.reject(error.reason)
        whose = client if client in self._roster else ""  # strangers share one limit
        if whose in self._rate_limit:
            return []
        answer = Publish(topics.down(self._plan.run, client), Rejected(error.reason, str(error)[:512]))
        return [self._keep_quiet(whose), Report(Refused(client, str(error))), answer]

    def _keep_quiet(self, client: str) -> ServerAction:
        self._rate_limit.begin(client)
        return StartTimer(f"quiet:{client}", QUIET_S)

    def _state(self, reason: str = "") -> Publish:
        plan = self._plan
        state = RunState(self._phase.on_the_wire, plan.incarnation, self._number, plan.rounds, reason)
        return Publish(topics.state(plan.run), state, retain=True)

    def _finish(self, reason: str) -> list[ServerAction]:
        if self._phase is Phase.FINISHED:
            return []
        self._phase = Phase.FINISHED
        return [self._state(reason), Done(reason)]
