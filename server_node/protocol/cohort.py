"""The clients at work: what is taken from them, what they are asked, and when they are let go."""

import math
from typing import TYPE_CHECKING

import msgspec

from broker.machine.actions import CancelTimer, Publish, Report, StartTimer
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Assignment,
    BatchDown,
    BatchUp,
    Gradient,
    HeadUpdate,
    Message,
    Progress,
    Released,
    Scores,
    Standing,
)
from server_node.protocol.adapting.ladder import Ladder
from server_node.protocol.admission import Gate, check_scores
from server_node.protocol.exchange import Exchange, Repair, Turn
from server_node.protocol.round_trip import RoundTrip
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Dropped

if TYPE_CHECKING:
    from server_node.protocol.evaluation import Evaluation
    from server_node.protocol.round import Round

ASK = "ask"
"""Timer: it is time to ask a member that is silent."""

LOOK_S = 0.5
"""The least time between two looks at who is silent."""


class Cohort:
    """The members: clients that have an assignment. With a policy that keeps late members, of several rounds.

    Args:
        plan: see Plan.
        ledger: counts duplicates and what came too late.

    Attributes:
        members: the exchange of each, by client.
        round: the one under way, or the evaluation after it; None between two.
        number: of that round, or of the last one.
        rows: of clients that need only some of the head, which rows; see Hello.rows.
        anew: clients that have greeted, and may have lost what they had, since this was looked at.
        ladder: measures links, and chooses the members' codecs.
    """

    def __init__(self, plan: Plan, ledger: Ledger, number: int) -> None:
        self.members: dict[str, Exchange] = {}
        self.round: Round | Evaluation | None = None
        self.number = number
        self.rows: dict[str, bytes] = {}
        self._plan = plan
        self._ledger = ledger
        self._gate = Gate(plan)
        self._round_trips: dict[str, RoundTrip] = {}
        self.ladder = Ladder(plan, ledger)
        self.anew: set[str] = set()
        self._gradient: Gradient | None = None  # the latest
        self._look_s = math.inf  # when the timer fires; infinite: it does not run
        self._earliest_s = math.inf  # when the first of those that were told to wait is to be asked

    # What members answer. Each of these gives None, or why the message is refused.

    def take_batch(self, client: str, message: BatchUp, now_s: float) -> WireError | None:
        """Take a batch, or the gradient of its features; it goes through the tail with the next job."""
        member = self._match(client, message.round, message.step)
        if not isinstance(member, Exchange):
            return member
        if message.step >= member.assignment.steps:
            return WireError("order", f"step {message.step} of {member.assignment.steps}")
        if message.step < member.step or member.turn is Turn.TAIL:
            self._duplicate(member, now_s)
            return None
        error = self._gate.batch(member.codecs, member.share, message, member.activations)
        if error is not None:
            return error
        self.ladder.answered(client, member, message, now_s)
        member.take_batch(message, now_s)
        if self.round is not None:
            self.round.activations_came(client)
        return None

    def take_update(self, client: str, message: HeadUpdate, now_s: float) -> WireError | None:
        """Take a head update; it is averaged when the round closes."""
        member = self._match(client, message.round, self._plan.steps_in(message.round))
        if not isinstance(member, Exchange):
            return member
        if member.turn is Turn.DONE or member.evaluates:
            self._duplicate(member, now_s)
            return None
        error = self._gate.update(member.codecs, member.share, message, member.samples)
        if error is None:
            self.ladder.answered(client, member, message, now_s)
            member.take_update(message, now_s)
            if self.round is not None:
                self.round.update_came(client)
            self._ledger.tensor("head_update_up", 1, member.share.values)
        return error

    def take_scores(self, client: str, message: Scores, now_s: float) -> WireError | None:
        """Take what a member of an evaluation tells of all its samples; then it is none any more."""
        member = self._match(client, message.round, message.step)
        if not isinstance(member, Exchange):
            return member
        if not member.evaluates or not self._plan.u_shape or message.step + 1 != member.assignment.steps:
            return WireError("order", f"scores in step {message.step} of {member.assignment.steps}")
        if member.turn is Turn.TAIL or message.step < member.step:
            self._duplicate(member, now_s)
            return None
        if (error := check_scores(message, member.samples)) is not None:
            return error
        if self.round is not None:
            self.round.told(message.score_sum, message.count)
        self._leaves(client)
        return None

    def _leaves(self, client: str) -> list[ServerAction]:
        """Note that a member of an evaluation has sent everything."""
        del self.members[client]
        if self.round is not None:
            self.round.left(client)
        return [CancelTimer(f"rejoin:{client}")]

    def _match(self, client: str, number: int, step: int) -> Exchange | WireError | None:
        """Give the member that an answer is of, or what is wrong with it; a late one is counted: None."""
        if number > self.number:
            return WireError("order", f"round {number} has not begun")
        member = self.members.get(client)
        if member is None or number < member.assignment.round:
            self._ledger.discarded_late += 1
            return None
        if number > member.assignment.round or step > member.step:
            return WireError("order", f"round {number}, step {step} is not what comes next")
        return member

    def _duplicate(self, member: Exchange, now_s: float) -> None:
        self._ledger.duplicates += 1
        if member.turn is Turn.CLIENT:
            member.ask_soon(now_s)
            self._earliest_s = now_s

    # What members are told.

    def needs(self, client: str, rows: bytes) -> None:
        """Note who greets, and which rows of the head it needs; empty: all. `check_greeting` let it pass."""
        self.anew.add(client)
        self.rows.pop(client, None)
        if rows and self._plan.own_rows:
            self.rows[client] = rows

    def assign(self, client: str, assignment: Assignment, now_s: float, *, rung: int = 0) -> Publish:
        """Make a client a member, with the codecs of a rung; it is told of the head what it needs."""
        if own := self.rows.get(client):
            codec = self._plan.whole_head.head_codec(self._plan.codecs.head_state_down)
            assignment = msgspec.structs.replace(assignment, head=codec.part(assignment.head, own))
        round_trip = self._round_trips.get(client) or self._round_trips.setdefault(client, RoundTrip())
        codecs, share = self._plan.codecs_of(client, rung), self._plan.share_of(client)
        member = Exchange(assignment, round_trip, self._plan.retry_s, now_s, codecs, share, rung)
        self.members[client] = member
        self._earliest_s = min(self._earliest_s, member.ask_at_s)
        self._ledger.tensor("head_state_down", 1, share.values)
        return self._say(client, assignment)

    def answer(self, client: str, correction: float, payload: bytes, now_s: float) -> Publish | None:
        """Answer a member's batch, unless it was dropped while the batch was in the tail."""
        member = self.members.get(client)
        if member is None or member.activations is None:
            return None
        share, sizes = member.share, (member.share.cut_size, self._plan.features_size)
        codec = member.codecs.activations_up
        self._ledger.exchange(codec, member.activations, *sizes, learns=share.form.learns)
        self._gradient = member.answer(correction, payload, now_s, self._gradient)
        return self._answered(client, member, self._gradient)

    def answer_with_features(self, client: str, payload: bytes, now_s: float) -> Publish | None:
        """Answer a member's batch in a U-shape, unless it was dropped while the batch was in the tail."""
        member = self.members.get(client)
        if member is None or member.activations is None:
            return None
        if member.evaluates:
            self._count_batch(member, member.activations)
            self._ledger.tensor("features_down", member.activations.count, self._plan.features_size)
        return self._answered(client, member, member.answer_with_features(payload, now_s))

    def _answered(self, client: str, member: Exchange, answer: BatchDown) -> Publish:
        self._earliest_s = min(self._earliest_s, member.ask_at_s)
        if self.round is not None:
            self.round.answered(client)
        return self._say(client, answer)

    def scored(self, client: str, now_s: float) -> list[ServerAction]:
        """Ask a member of an evaluation for its next batch, unless this was the last; then it is none."""
        member = self.members.get(client)
        if member is None or member.activations is None:
            return []
        self._count_batch(member, member.activations)
        if member.ends_with_next_batch:
            return self._leaves(client)
        return [self._answered(client, member, member.answer(0.0, b"", now_s))]

    def learned(self, client: str) -> None:
        """Note that a batch which came with a member's update went through the tail."""
        if (member := self.members.get(client)) and member.next_along:
            self._count_batch(member, member.next_along)
            member.learned += 1

    def _count_batch(self, member: Exchange, batch: Activations) -> None:
        """Count a batch that took effect and is not answered by a gradient."""
        self._ledger.exchange(member.codecs.activations_up, batch, member.share.cut_size, learns=False)

    def greeted(self, client: str, now_s: float) -> list[ServerAction]:
        """Ask a member that has come back how far it is; its greeting may be older than what was said."""
        member = self.members.get(client)
        return [] if member is None or member.turn is not Turn.CLIENT else self._ask(client, now_s)

    def repair(self, client: str, claim: Progress, now_s: float) -> list[ServerAction]:
        """Do what follows from where a client says that it is."""
        member = self.members.get(client)
        if member is None:
            return []
        match member.told(claim):
            case Repair.SAY_AGAIN:
                return [self._say(client, member.again())]
            case Repair.START_OVER:
                return [self._say(client, member.start_over())]
            case Repair.ASK_AGAIN:
                return self._ask(client, now_s, resend=True)
            case Repair.DROP:
                if claim.standing is Standing.REFUSED:
                    where = f"round {claim.round}, step {claim.step}"
                    self._ledger.reject(client, "gave-up", f"gave-up: the device could not do {where}")
                return self.drop(client)
            case Repair.NOTHING:
                return []

    def ask_all(self, now_s: float) -> list[ServerAction]:
        """Ask every member that owes an answer: what they said while the server was away is lost."""
        owing = [client for client, member in self.members.items() if member.turn is Turn.CLIENT]
        return [action for client in owing for action in self._ask(client, now_s)]

    def ask_the_silent(self, now_s: float) -> list[ServerAction]:
        """Ask those whose time is over; the timer has fired."""
        self._look_s = self._earliest_s = math.inf
        members = self.members.items()
        silent = [client for client, m in members if m.turn is Turn.CLIENT and m.ask_at_s <= now_s]
        actions = [action for client in silent for action in self._ask(client, now_s)]
        waits = (member.ask_at_s for member in self.members.values() if member.turn is Turn.CLIENT)
        self._earliest_s = min(waits, default=math.inf)
        return actions

    def timer(self, now_s: float) -> list[ServerAction]:
        """Set the timer anew if somebody is to be asked before it fires.

        It fires at most once in LOOK_S: then it looks at all members, who may be thousands.
        """
        if self._earliest_s >= self._look_s:
            return []
        self._look_s = max(self._earliest_s, now_s + LOOK_S)
        self._earliest_s = math.inf
        return [StartTimer(ASK, self._look_s - now_s)]

    def _ask(self, client: str, now_s: float, *, resend: bool = False) -> list[ServerAction]:
        member = self.members[client]
        ask = member.ask(now_s, resend=resend)
        self._earliest_s = min(self._earliest_s, member.ask_at_s)
        return self.drop(client, greet=True) if ask is None else [self._say(client, ask)]

    def drop(self, client: str, *, greet: bool = False) -> list[ServerAction]:
        """Go on without a member; its answers are late from here on.

        Args:
            client: who.
            greet: it was silent for so long that it must greet before it is chosen again.
        """
        member = self.members.pop(client, None)
        if member is None:
            return []
        if self.round is not None:
            self.round.left(client)
        released = Released(member.assignment.server, member.assignment.round, greet)
        timer = CancelTimer(f"rejoin:{client}")
        return [timer, Report(Dropped(self.number, client)), self._say(client, released)]

    def _say(self, client: str, message: Message) -> Publish:
        return Publish(topics.down(self._plan.run, client), message)
