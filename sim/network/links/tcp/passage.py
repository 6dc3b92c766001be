"""A message through a queue that others use, too: segment by segment, as virtual time goes."""

from collections import deque
from collections.abc import Callable

from broker.wire.link_bytes import FULL_PACKET_BYTES
from sim.network.clock import Clock
from sim.network.links.packet_queue import PacketQueue
from sim.network.links.path import Path
from sim.network.links.tcp.connection import Connection
from sim.network.links.tcp.line import Line, Sent


class Passage:
    """Sends one message: over the own line, through the shared queue, then on the way to the other end.

    Acknowledgements take no room, but wait in the queue of the other direction. Alone it does what
    Connection.send does.

    Args:
        clock: virtual time; the message begins to leave now.
        connection: sends it.
        segments: of the message.
        last: size of its last one; a full packet's is 1.
        line: the device's own.
        queue: the shared one.
        back: that of the other direction; None: acknowledgements do not wait.
        passed: called when the last segment to come has left the queue.

    Attributes:
        sent: what came of it, then.
    """

    __slots__ = (
        "_back",
        "_back_s",
        "_clock",
        "_connection",
        "_due",
        "_line",
        "_on_line",
        "_over",
        "_passed",
        "_queue",
        "_receiver",
        "_segments",
        "_transfer",
        "_wake_s",
        "sent",
    )

    def __init__(
        self,
        clock: Clock,
        connection: Connection,
        segments: int,
        last: float,
        line: Line,
        queue: PacketQueue,
        back: PacketQueue | None,
        passed: Callable[[], None],
    ) -> None:
        self._clock, self._connection, self._segments = clock, connection, segments
        self._line, self._queue, self._back, self._passed = line, queue, back, passed
        # segment, size, when it begins to leave, has left, how the line is then, when it was sent
        self._on_line: deque[tuple[int, float, float, float, Path, float]] = deque()
        self.sent: Sent | None = None
        self._over = False
        self._back_s = 0.0  # when the last acknowledgement is back that has passed the queue
        self._due = False  # the receiver's timer is watched
        self._wake_s = 0.0  # when the sender's is looked at
        self._transfer, self._receiver = connection.begin(clock.now, segments, last, self._answer, self._put)
        self._transfer.begin(clock.now)
        self._watch()

    def abort(self) -> None:
        """Forget it."""
        self._over = True

    def _put(self, segment: int, size: float, now_s: float) -> None:
        begins_s, left_s, path = self._line.leave(now_s, size)
        if self._over:
            self._arrive(segment, left_s, path, now_s)
            return
        self._on_line.append((segment, size, begins_s, left_s, path, now_s))
        self._clock.at(left_s, self._enter)

    def _enter(self) -> None:
        """Put the first segment on the line into the queue; it has left the line now."""
        if self._over:
            return
        segment, size, begins_s, left_s, path, sent_s = self._on_line.popleft()
        left_s = self._queue.leave(begins_s, left_s, size * FULL_PACKET_BYTES)
        self._arrive(segment, left_s, path, sent_s)
        receiver = self._receiver
        if receiver.upto == self._segments:
            self._end(left_s, path)
        elif receiver.due_s and not self._due:
            self._due = True
            self._clock.at(receiver.due_s, self._stop_waiting)

    def _arrive(self, segment: int, left_s: float, path: Path, sent_s: float) -> None:
        at_s = self._line.arrive(left_s, path)
        if at_s is not None:
            self._receiver.arrived(segment, at_s, sent_s, path)

    def _stop_waiting(self) -> None:
        due_s = self._receiver.due_s
        if due_s > self._clock.now:
            self._clock.at(due_s, self._stop_waiting)
            return
        self._due = False
        if due_s and not self._over:
            self._receiver.stop_waiting()

    def _answer(self, now_s: float, path: Path) -> float | None:
        back_s = self._line.answer(now_s, path)
        if back_s is not None and not self._over:
            self._clock.at(now_s, self._turn, back_s)
        return back_s

    def _turn(self, back_s: float) -> None:
        """Let an acknowledgement wait in the queue of the other direction; order is kept."""
        wait_s = self._back.wait_s() if self._back else 0.0
        self._back_s = max(self._back_s, back_s + wait_s)
        self._clock.at(self._back_s, self._acknowledged)

    def _acknowledged(self) -> None:
        if self._over:
            return
        self._transfer.acknowledged(self._clock.now, *self._receiver.acks.popleft()[1:])
        self._watch()

    def _watch(self) -> None:
        """Look at the sender's timers when the first of them may be due."""
        due_s = self._transfer.due_s
        if self._wake_s <= self._clock.now or due_s < self._wake_s:
            self._wake_s = due_s
            self._clock.at(due_s, self._wake, due_s)

    def _wake(self, wake_s: float) -> None:
        if self._over or wake_s != self._wake_s:
            return
        if self._transfer.due_s <= wake_s:
            self._clock.at(wake_s, self._expire)  # after an acknowledgement that comes now
        else:
            self._watch()

    def _expire(self) -> None:
        if self._over:
            return
        if self._transfer.due_s <= self._clock.now:
            self._transfer.expire()
        self._watch()

    def _end(self, left_s: float, path: Path) -> None:
        """All has arrived, or will without fail: take the acknowledgements that are under way at once."""
        self._over = True
        for segment, _, _, at_s, then, sent_s in self._on_line:
            self._arrive(segment, at_s, then, sent_s)
        wait_s = self._back.wait_s() if self._back else 0.0
        acks = self._receiver.acks
        while acks:
            at_s, upto, sacked, answers_s = acks.popleft()
            self._transfer.acknowledged(at_s + wait_s, upto, sacked, answers_s)
        self._connection.end(self._transfer)
        self.sent = Sent(left_s, path, self._receiver.progress)
        self._clock.at(left_s, self._passed)
