"""One message over a TCP connection that loses segments, as Linux sends it: docs/models.md has the rules."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from sim.network.links.tcp.recovery import Recovery
from sim.network.links.tcp.round_trips import LEAST_MARGIN_S, RoundTrips
from sim.network.links.tcp.window import Reno, Use

REORDERING = 3
"""RACK: with so many segments beyond a gap, those in the gap are lost without further patience."""

PROBE_MARGIN_S = 0.008
"""Linux: two ticks of its clock."""

_OPEN: Final = 0
_RECOVERY: Final = 1  # a loss was noticed, and not all is acknowledged that was under way then
_TIMED_OUT: Final = 2  # the same, after a timeout
_ROUNDING_S = 1e-9


class Transfer:
    """Sends the segments of one message, and again those that are lost, until all have arrived.

    Loss is noticed by RACK, by a probe after a lost tail (RFC 8985), and by the timeout (RFC 6298). In
    recovery as much is sent as has left the network (PRR, RFC 6937): repetitions and new segments.

    Args:
        segments: of the message.
        last: size of its last one; a full packet's is 1.
        window: of the connection.
        round_trips: of the connection.
        put: takes the number of a segment, its size, and when it is sent.
        before: segments that the connection has sent before.
        pubacks: those that are not acknowledged yet; they are segments, too. When each will be, and how long
            after it went.

    Attributes:
        last_send_s: when a segment was sent last.
    """

    def __init__(
        self,
        *,
        segments: int,
        last: float,
        window: Reno,
        round_trips: RoundTrips,
        put: Callable[[int, float, float], None],
        before: int,
        pubacks: Sequence[tuple[float, float]] = (),
    ) -> None:
        self._segments, self._last, self._before = segments, last, before
        self._window, self._round_trips, self._send = window, round_trips, put
        self.last_send_s = 0.0
        # of each segment: when it was sent last, as the how-manyth, and what is known of it
        self._sent_s, self._sent_no = [0.0] * segments, [0] * segments
        self._in_flight, self._sacked = bytearray(segments), bytearray(segments)
        self._repeated = bytearray(segments)
        self._una = self._next = 0  # the first one not acknowledged, the first one not sent
        self._pubacks = deque(pubacks)
        self._under_way = len(pubacks)
        self._sacked_count = 0
        self._sends = self._newest = 0  # the latest sent of those that have arrived: as the how-manyth
        self._newest_rtt_s = 0.0
        self._order: deque[tuple[int, int]] = deque()  # what was sent, in order
        self._lost: deque[int] = deque()  # and is to be sent again
        self._state = _OPEN
        self._high = self._timeouts = 0  # recovery ends when all before `high` is acknowledged
        self._recovery = Recovery(0)
        self._probed_s = math.inf  # when a probe was sent of which nothing is known
        self._use = Use()
        self._round_end = -1
        self._timer_s = self._reorder_s = math.inf
        self._timed_out_s = 0.0  # 0: that was taken back
        self._size_before = self._threshold_before = 0

    def begin(self, now_s: float) -> None:
        """Send what the window allows."""
        self._fill(now_s)
        self._arm(now_s)

    @property
    def due_s(self) -> float:
        """When a timer goes off if nothing comes before."""
        timer_s = min(self._timer_s, self._reorder_s)
        return min(timer_s, self._pubacks[0][0]) if self._pubacks else timer_s

    def _fill(self, now_s: float) -> None:
        """Send what the window allows: first what is lost, then what is new."""
        size, lost, sends = self._window.size, self._lost, self._sends
        while self._under_way < size:
            if lost:
                segment = lost.popleft()
                if self._sacked[segment] or self._in_flight[segment] or segment < self._una:
                    continue
                self._repeated[segment] = 1
                if segment == self._una:
                    self._timer_s = now_s + self._timeout_s()
            elif self._next < self._segments:
                segment = self._next
                self._next += 1
            else:
                break
            if self._state == _RECOVERY:
                self._recovery.out += 1
            self._put(segment, now_s)
        full = self._under_way >= size
        if sends != self._sends or (full and self._next < self._segments):
            self._use.note(self._una, self._next, len(self._pubacks), full=full)

    def _put(self, segment: int, now_s: float) -> None:
        """Send one segment."""
        self.last_send_s = now_s
        self._sends += 1
        self._sent_s[segment] = now_s
        self._sent_no[segment] = self._sends
        self._order.append((self._sends, segment))
        self._in_flight[segment] = 1
        self._under_way += 1
        self._send(segment, self._last if segment == self._segments - 1 else 1.0, now_s)

    def acknowledged(self, now_s: float, upto: int, sacked: list[int], answers_s: float) -> None:
        """Take an acknowledgement, as Ack says."""
        una = self._una
        new = [segment for segment in range(una, upto) if not self._sacked[segment]]
        self._sacked_count -= max(0, upto - una) - len(new)
        for segment in sacked:
            if segment >= upto and not self._sacked[segment]:
                self._sacked[segment] = 1
                self._sacked_count += 1
                new.append(segment)
        self._una = max(una, upto)
        for segment in new:
            if self._in_flight[segment]:
                self._in_flight[segment] = 0
                self._under_way -= 1
        self._time(now_s, new)
        if upto > una:
            self._advance(upto, answers_s)
        self._react(now_s, self._mark_lost(now_s), len(new), advanced=upto > una)

    def _advance(self, upto: int, answers_s: float) -> None:
        """Take note that more has come without a gap."""
        self._timeouts = 0
        if self._state == _TIMED_OUT and answers_s < self._timed_out_s:
            self._take_back()
        if self._probed_s < math.inf and upto >= self._high:
            repaired = self._repeated[upto - 1] and answers_s >= self._probed_s
            self._probed_s = math.inf
            if self._state == _OPEN and repaired:  # a loss
                self._window.size = self._window.threshold = self._window.reduced()
        if self._state != _OPEN and upto >= self._high:
            if self._state == _RECOVERY:
                self._window.size = self._window.threshold
            self._state = _OPEN

    def _time(self, now_s: float, new: list[int]) -> None:
        """Take the time of a round trip: of the first segment that was sent once; for RACK of the latest."""
        if not new:
            return
        newest = max(new, key=self._sent_no.__getitem__) if len(new) > 1 else new[0]
        if self._sent_no[newest] > self._newest:
            rtt_s = now_s - self._sent_s[newest]
            if not self._repeated[newest] or rtt_s >= self._round_trips.least_s:
                self._newest, self._newest_rtt_s = self._sent_no[newest], rtt_s
        first = next((segment for segment in new if not self._repeated[segment]), None)
        if first is not None:
            rtt_s = now_s - self._sent_s[first]
            self._round_trips.note(rtt_s)
            if self._una > self._round_end:
                self._round_trips.end_flight()
                self._round_end = self._next
            self._window.sampled(now_s, rtt_s, self._before + self._una, self._before + self._next)

    def _mark_lost(self, now_s: float) -> int:
        """RACK: what was sent before something that has arrived, and has had time enough, is lost."""
        order, patience_s = self._order, self._newest_rtt_s
        if self._state == _OPEN and self._sacked_count < REORDERING:
            patience_s += self._round_trips.least_s / 4
        self._reorder_s = math.inf
        lost = 0
        while order and order[0][0] < self._newest:
            number, segment = order[0]
            if self._in_flight[segment] and self._sent_no[segment] == number:
                due_s = self._sent_s[segment] + patience_s
                if due_s > now_s + _ROUNDING_S:
                    self._reorder_s = due_s
                    break
                self._in_flight[segment] = 0
                self._under_way -= 1
                self._lost.append(segment)
                lost += 1
            order.popleft()
        return lost

    def _react(self, now_s: float, lost: int, delivered: int, *, advanced: bool) -> None:
        """Change the window, and send."""
        window = self._window
        if lost and self._state == _OPEN:
            self._state = _RECOVERY
            self._high = self._next
            self._recovery = Recovery(window.size)
            window.threshold = window.reduced()
        if self._state == _RECOVERY:
            if delivered or lost:
                window.size = self._recovery.window(
                    window.threshold, self._under_way, lost, delivered, advanced=advanced
                )
        elif advanced and self._use.allows_growth(window):
            window.grow(delivered, now_s)
        self._fill(now_s)
        if advanced or (self._state == _OPEN and not self._sacked_count and self._probed_s == math.inf):
            self._arm(now_s)

    def _timeout_s(self) -> float:
        return self._round_trips.timeout_s * (1 << self._timeouts)

    def _may_probe(self) -> bool:
        return self._state == _OPEN and not self._sacked_count and self._probed_s == math.inf

    def _arm(self, now_s: float) -> None:
        """Set the timer: for a probe, else for the timeout."""
        wait_s = self._timeout_s()
        if self._may_probe():
            margin_s = LEAST_MARGIN_S if self._next - self._una == 1 else PROBE_MARGIN_S
            wait_s = min(wait_s, 2 * self._round_trips.mean_s + margin_s)
        self._timer_s = now_s + wait_s

    def expire(self) -> None:
        """Let the timer that is due first go off, or the acknowledgement of a PUBACK come."""
        if self._pubacks and self._pubacks[0][0] <= min(self._timer_s, self._reorder_s):
            now_s, round_trip_s = self._pubacks.popleft()
            self._round_trips.note(round_trip_s)
            if self._round_end < 0:
                self._round_trips.end_flight()
                self._round_end = self._next
            self._under_way -= 1
            self._react(now_s, 0, 1, advanced=True)
        elif self._reorder_s <= self._timer_s:
            now_s = self._reorder_s
            lost = self._mark_lost(now_s)
            self._react(now_s, lost, 1 if lost else 0, advanced=False)
        elif self._may_probe():
            self._probe(self._timer_s)
        else:
            self._time_out(self._timer_s)

    def _take_back(self) -> None:
        """A timeout was none: what answers was sent before it. Nothing is lost then (RFC 3522)."""
        window = self._window
        window.size, window.threshold = max(window.size, self._size_before), self._threshold_before
        self._state = _OPEN
        self._timed_out_s = 0.0
        for segment in self._lost:
            if not self._in_flight[segment] and not self._sacked[segment] and segment >= self._una:
                self._in_flight[segment] = 1
                self._under_way += 1
        self._lost.clear()

    def _probe(self, now_s: float) -> None:
        """Send the next segment, or the last one again, whatever the window says: RFC 8985, 7.3."""
        self._probed_s = now_s
        self._high = self._next
        if self._next < self._segments:
            segment = self._next
            self._next += 1
        else:
            segment = self._next - 1
            self._repeated[segment] = 1
            self._under_way -= self._in_flight[segment]
        self._put(segment, now_s)
        self._timer_s = now_s + self._timeout_s()

    def _time_out(self, now_s: float) -> None:
        """Begin again with a window of one segment; only what RACK thinks has had time enough is lost."""
        window = self._window
        if self._state != _TIMED_OUT:
            self._size_before, self._threshold_before = window.size, window.threshold
            self._timed_out_s = now_s
            window.threshold = window.reduced()
        window.timed_out()
        window.size = 1
        self._state, self._probed_s = _TIMED_OUT, math.inf
        self._high = self._next
        self._timeouts += 1
        since_s = now_s - self._newest_rtt_s
        self._lost.clear()
        for segment in range(self._una, self._next):
            if self._in_flight[segment] and (segment == self._una or self._sent_s[segment] <= since_s):
                self._in_flight[segment] = 0
                self._under_way -= 1
            if not self._in_flight[segment] and not self._sacked[segment]:
                self._lost.append(segment)
        self._timer_s = now_s + self._timeout_s()
        self._fill(now_s)
