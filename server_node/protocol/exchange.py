"""One client's exchange with the server in a round: whose turn it is, and what to ask or say again."""

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import TypeVar

import msgspec

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
    Progress,
    Standing,
)
from scenarios.schema.flows import Codecs
from server_node.protocol.round_trip import RoundTrip
from server_node.vocabulary.head_share import HeadShare

MAX_UNANSWERED = 24
"""A member that leaves so many questions unanswered is dropped from its round. The waits double up to
`stragglers.retry_s`, so with its default that is after more than three hours without a sign of life.
Answers wait behind the message that the client sends: the largest one that a shipped task knows, a whole
model as float32, takes two hours at the rate of `lora-backhaul`. A client that is gone is noticed earlier:
the broker says its last will."""

MAX_RESENDS = 5
"""After one message was sent again so many times without effect, its receiver is dropped from its round."""

M = TypeVar("M", bound=Assignment | BatchDown)


class Turn(Enum):
    """Whose turn it is in an exchange."""

    CLIENT = auto()
    """The client owes its next activations, the gradient of its features, or its head update."""
    TAIL = auto()
    """Its activations, or the gradient of its features, are here and wait for the tail."""
    DONE = auto()
    """Its head update is here; it waits for the round to close."""


class Repair(Enum):
    """What is to be done after a client has told how far it is."""

    NOTHING = auto()
    SAY_AGAIN = auto()
    """The client has not got the server's last message."""
    ASK_AGAIN = auto()
    """The client has answered, and the answer was lost."""
    START_OVER = auto()
    """The client has lost its state, but can begin the round anew."""
    DROP = auto()
    """The client cannot go on with the round."""


class Exchange(msgspec.Struct):
    """A member of the cohort at work.

    Attributes:
        assignment: what it was told to begin with.
        round_trip: of this client's answers, in this and earlier rounds.
        longest_wait_s: the most that may lie between two questions.
        codecs: of this assignment.
        share: what the client has of the head.
        turn: see Turn.
        step: the step that it owes, see Progress; as many as there are steps when it owes its update.
        samples: that went through the tail in this round.
        said: the last answer to a batch that it was sent.
        activations: those that wait for the tail; in a U-shape also while the client has their features.
        returned: in a U-shape the gradient of its features that waits for the tail.
        update: its head update.
        learned: how many of the batches that came with it have gone through the tail.
        sent_s: when the message that it owes an answer to was sent.
        rung: of the ladder of codecs, in this assignment; see Plan.codecs_of.
        wait_s: from the last message or question to the next question.
        ask_at_s: when to ask next.
        first_question: number of the first Ask whose answer tells of the message that it owes an answer to.
        unanswered: questions since the last sign of life.
        resends: how often its current message, or its answer to it, was sent again.
    """

    assignment: Assignment
    round_trip: RoundTrip
    longest_wait_s: float
    sent_s: float
    codecs: Codecs
    share: HeadShare
    rung: int = 0
    turn: Turn = Turn.CLIENT
    step: int = 0
    samples: int = 0
    said: BatchDown | None = None
    activations: Activations | None = None
    returned: FeatureGradient | None = None
    update: HeadUpdate | None = None
    learned: int = 0
    wait_s: float = 0.0
    ask_at_s: float = 0.0
    first_question: int = 0
    unanswered: int = 0
    resends: int = 0

    def __post_init__(self) -> None:
        self.step = self.assignment.first_step
        self._wait_from(self.sent_s)

    @property
    def evaluates(self) -> bool:
        """Whether it is of an evaluation, in which nothing is trained."""
        return self.assignment.first_step > 0

    @property
    def ends_with_next_batch(self) -> bool:
        """Whether the batch that it owes, or that is here, is the last one."""
        return self.step + 1 == self.assignment.steps

    @property
    def next_along(self) -> Activations | None:
        """The next batch to learn of those that came with its update."""
        update = self.update
        if update is None or self.learned == len(update.batches):
            return None
        count, payload, targets = update.batches[self.learned]
        return Activations(update.server, update.round, self.learned, 1, count, payload, targets)

    def _wait_from(self, now_s: float) -> None:
        """Start to wait for the answer to a new message."""
        self.sent_s = now_s
        self.wait_s = min(self.round_trip.wait_s, self.longest_wait_s)
        self.ask_at_s = now_s + self.wait_s
        self.unanswered = self.resends = 0
        self.first_question = self.round_trip.questions + 1

    def take_batch(self, message: BatchUp, now_s: float) -> None:
        """Note its step's activations, or the gradient at the features that it has; it is the tail's turn."""
        if not self.resends:
            self.round_trip.observe(now_s - self.sent_s)
        self.turn = Turn.TAIL
        if isinstance(message, Activations):
            self.activations = message
        else:
            self.returned = message

    def take_update(self, message: HeadUpdate, now_s: float) -> None:
        """Note its head update; it is done with the round."""
        if not self.resends:
            self.round_trip.observe(now_s - self.sent_s)
        self.update, self.turn = message, Turn.DONE

    def answer(
        self, correction: float, payload: bytes, now_s: float, latest: Gradient | None = None
    ) -> Gradient:
        """Give the gradient that answers its batch; it is now the client's turn.

        Args:
            correction: see Gradient.
            payload: the gradient's.
            now_s: the time.
            latest: another member's; given again if it says the same, so that it is weighed once.
        """
        answered = self.returned or self.activations
        assert answered is not None
        self.samples += answered.count
        self.activations = self.returned = None
        if (
            latest is None
            or latest.payload is not payload
            or latest.correction != correction
            or (latest.server, latest.round, latest.step) != (answered.server, answered.round, answered.step)
        ):
            latest = Gradient(answered.server, answered.round, answered.step, 1, correction, payload)
        self._say(latest, now_s)
        return latest

    def answer_with_features(self, payload: bytes, now_s: float) -> Features:
        """Give the features that answer its activations, which training needs again; the client's turn."""
        answered = self.activations
        assert answered is not None
        features = Features(answered.server, answered.round, answered.step, 1, payload)
        if self.evaluates:
            self.activations = None
            self.samples += answered.count
        self._say(features, now_s)
        return features

    def _say(self, answer: BatchDown, now_s: float) -> None:
        self.said, self.turn = answer, Turn.CLIENT
        self.step += 1
        self._wait_from(now_s)

    def ask(self, now_s: float, *, resend: bool = False) -> Ask | None:
        """Give the next question, and wait twice as long for the one after it; None: it was asked enough."""
        self.unanswered += 1
        if self.unanswered > MAX_UNANSWERED:
            return None
        self.round_trip.questions += 1
        self.wait_s = min(2 * self.wait_s, self.longest_wait_s)
        self.ask_at_s = now_s + self.wait_s
        return Ask(
            self.assignment.server, self.round_trip.questions, self.assignment.round, self.step, resend
        )

    def ask_soon(self, now_s: float) -> None:
        """Ask next time the timer is looked at: a duplicate shows that the client may wait in vain."""
        self.ask_at_s = now_s

    def told(self, claim: Progress) -> Repair:
        """Say what follows from where a client says that it is.

        Clients answer on the topic on which their activations and updates travel, and brokers keep the order
        of a topic. So an answer that the client has sent, and that is not here, was lost. The same holds for
        what the server said before it asked; answers to questions from before that prove nothing.
        """
        self.unanswered = 0
        if self.turn is not Turn.CLIENT:
            return Repair.NOTHING
        if (
            claim.standing is Standing.REFUSED
            and claim.round == self.assignment.round
            and claim.step == self.step
        ):
            return Repair.DROP
        if claim.number < self.first_question:
            return Repair.NOTHING
        if claim.round != self.assignment.round:
            if claim.round > self.assignment.round:
                return Repair.NOTHING
            done = self.step - self.assignment.first_step
            repair = Repair.START_OVER if done <= 1 else Repair.DROP
        elif claim.standing is Standing.WORKING or claim.step > self.step:
            repair = Repair.NOTHING
        elif claim.step < self.step:
            repair = Repair.SAY_AGAIN if claim.step == self.step - 1 else Repair.DROP
        else:
            repair = Repair.ASK_AGAIN if claim.standing is Standing.ANSWERED else Repair.NOTHING
        if repair in (Repair.SAY_AGAIN, Repair.START_OVER, Repair.ASK_AGAIN):
            self.resends += 1
            self.first_question = self.round_trip.questions + 1
        return Repair.DROP if self.resends > MAX_RESENDS else repair

    def again(self) -> Assignment | BatchDown:
        """Give the message that it has not got, with its attempt counted up."""
        if self.said is None:
            return self.start_over()
        self.said = _next_attempt(self.said)
        return self.said

    def start_over(self) -> Assignment:
        """Give the assignment once more."""
        self.assignment = _next_attempt(self.assignment)
        return self.assignment


def rungs_of(members: Mapping[str, Exchange], clients: Iterable[str]) -> dict[str, int]:
    """Give the rungs of some members, of those that have not the first one."""
    return {client: rung for client in clients if (rung := members[client].rung)}


def _next_attempt(message: M) -> M:
    return msgspec.structs.replace(message, attempt=message.attempt + 1)
