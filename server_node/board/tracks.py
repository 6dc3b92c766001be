"""Who has had which turn in a round since when, read off the exchanges of the server's state machine."""

from dataclasses import dataclass, field

from broker.wire.messages import Standing
from server_node.board.pages import MAX_MARKS, Member, Status, Why
from server_node.protocol.exchange import Exchange, Turn

_WHY: dict[Standing | None, Why] = {
    None: "no sign yet",
    Standing.MISSING: "message under way",
    Standing.WORKING: "computing",
    Standing.ANSWERED: "answer under way",
    Standing.REFUSED: "no sign yet",
}
_TURNS = {Turn.CLIENT: "client", Turn.TAIL: "tail", Turn.DONE: "done"}


@dataclass(slots=True)
class Track:
    """A client's way through one assignment.

    Attributes:
        round: of the assignment.
        step: as in Progress.
        turn: whose turn it is.
        marks_s: when that changed, the latest times only; an even number of earlier ones is left out.
        standing: what the client has said of its present turn.
    """

    round: int
    step: int
    turn: Turn
    marks_s: list[float]
    standing: Standing | None = None

    def move(self, turn: Turn, now_s: float) -> None:
        """Note that it is another's turn."""
        self.turn, self.standing = turn, None
        self.marks_s.append(now_s)
        if len(self.marks_s) > MAX_MARKS:
            del self.marks_s[:2]

    def member(self, client: str, began_s: float) -> Member:
        """Give it as it is shown."""
        marks = [round(mark_s - began_s, 2) for mark_s in self.marks_s]
        return Member(client, self.round, self.step, _TURNS[self.turn], marks)  # type: ignore[arg-type]


@dataclass(slots=True)
class Record:
    """What is known of a client.

    Attributes:
        device: the scenario's word for it.
        link: the same for its link.
        is_online: as the state machine has it.
        left_s: when it was lost; None: never.
        seen_s: when it said something last; None: never.
        samples: on the device, as it says.
        batches: that went through the tail.
        answers: turns of the client that ended with an answer.
        answers_s: sum of the seconds that those took.
        track: its way through its assignment; None: it has none.
    """

    device: str
    link: str
    is_online: bool = False
    left_s: float | None = None
    seen_s: float | None = None
    samples: int | None = None
    batches: int = 0
    answers: int = 0
    answers_s: float = 0.0
    track: Track | None = field(default=None)

    @property
    def status(self) -> Status:
        """What it does."""
        if not self.is_online:
            return "unknown" if self.left_s is None else "offline"
        if self.track is None:
            return "idle"
        return "working" if self.track.turn is Turn.CLIENT else "waiting"

    @property
    def why(self) -> Why:
        """Say what is known of why it is waited for."""
        if not self.is_online:
            return "offline"
        return _WHY[self.track.standing if self.track is not None else None]

    def follow(self, member: Exchange | None, now_s: float, *, batches_of_update: int) -> int | None:
        """Compare with the client's exchange; give the round of an assignment that has begun, or None.

        Args:
            member: the exchange; None: it has none.
            now_s: the time.
            batches_of_update: batches behind a head update that no exchange of activations came before.
        """
        track = self.track
        if member is None:
            self.track = None
            return None
        if track is None or track.round != member.assignment.round:
            self.track = Track(member.assignment.round, member.step, member.turn, [now_s])
            return self.track.round
        if track.turn is not member.turn:
            if track.turn is Turn.CLIENT:
                self.answers += 1
                self.answers_s += now_s - track.marks_s[-1]
            else:
                self.batches += 1
            if member.turn is Turn.DONE:
                self.batches += 0 if member.assignment.steps else batches_of_update
            track.move(member.turn, now_s)
        track.step = member.step
        return None
