"""A TCP connection on a link that loses packets; it lasts from one message to the next."""

import math
from collections import deque
from collections.abc import Callable

from broker.wire.link_bytes import FULL_PACKET_BYTES, HEADER_BYTES, SEGMENT_BYTES, segments_of
from sim.network.links.tcp.line import Line, Sent
from sim.network.links.tcp.receiver import DELAYED_ACK_S, QUICK_ACKS, Answer, Receiver
from sim.network.links.tcp.round_trips import RoundTrips
from sim.network.links.tcp.transfer import Transfer
from sim.network.links.tcp.window import INITIAL_WINDOW, Reno


def packets_of(payload_bytes: int) -> tuple[int, float]:
    """Give how many segments a message has, and the size of the last one; a full packet's is 1."""
    segments = segments_of(payload_bytes)
    last_bytes = payload_bytes + HEADER_BYTES - (segments - 1) * SEGMENT_BYTES
    return segments, last_bytes / FULL_PACKET_BYTES


class Connection:
    """What TCP knows at one end.

    Args:
        window: of its congestion control.
        round_trip_s: of the handshake.
    """

    __slots__ = ("_flight_end_s", "_last_send_s", "_pubacks", "_round_trips", "_segments", "window")

    def __init__(self, window: Reno, round_trip_s: float) -> None:
        self.window = window
        self._round_trips = RoundTrips(round_trip_s)
        self._last_send_s = math.inf
        self._segments = 0
        self._flight_end_s = 0.0
        self._pubacks: deque[tuple[float, float]] = deque()  # see Transfer

    def begin(
        self,
        start_s: float,
        segments: int,
        last: float,
        answer: Answer,
        put: Callable[[int, float, float], None],
    ) -> tuple[Transfer, Receiver]:
        """Give both ends of a message that is about to leave.

        Args:
            start_s: when it begins to.
            segments: of the message.
            last: size of its last one; a full packet's is 1.
            answer: see Answer.
            put: takes the number of a segment, its size, and when it is sent.
        """
        self._hear_of_pubacks(start_s)
        self._rest(start_s)
        receiver = Receiver(segments, answer, QUICK_ACKS - self._segments)
        receiver.progress.append((start_s, 0))
        transfer = Transfer(
            segments=segments,
            last=last,
            window=self.window,
            round_trips=self._round_trips,
            put=put,
            before=self._segments,
            pubacks=self._pubacks,
        )
        self._segments += segments
        self._pubacks = deque()
        return transfer, receiver

    def end(self, transfer: Transfer) -> None:
        """Take note of a message that has arrived."""
        self._last_send_s = transfer.last_send_s

    def send(self, start_s: float, segments: int, last: float, line: Line) -> Sent:
        """Send a message on a line that nobody else uses.

        Args:
            start_s: when it begins to leave.
            segments: of the message.
            last: size of its last one; a full packet's is 1.
            line: takes them.
        """
        sent: Sent | None = None

        def put(segment: int, size: float, now_s: float) -> None:
            nonlocal sent
            _, left_s, path = line.leave(now_s, size)
            at_s = line.arrive(left_s, path)
            if at_s is not None:
                receiver.arrived(segment, at_s, now_s, path)
                if sent is None and receiver.upto == segments:
                    sent = Sent(left_s, path, receiver.progress)

        transfer, receiver = self.begin(start_s, segments, last, line.answer, put)
        transfer.begin(start_s)
        acks = receiver.acks
        while acks or sent is None or transfer.due_s < sent.left_s:
            timer_s = transfer.due_s
            if sent and sent.left_s <= timer_s:
                timer_s = math.inf  # nothing is repeated any more
            if acks and acks[0][0] <= timer_s:
                transfer.acknowledged(*acks.popleft())
            elif not acks and 0 < receiver.due_s <= timer_s:
                receiver.stop_waiting()
            else:
                transfer.expire()
        self.end(transfer)
        return sent

    def acknowledge(self, now_s: float, way_s: float) -> None:
        """Send a PUBACK; it takes no time on the link, and is not lost.

        Args:
            now_s: when it goes.
            way_s: how long it and its acknowledgement are under way.
        """
        self._hear_of_pubacks(now_s)
        if now_s > self._last_send_s:
            self._rest(now_s)
        self._last_send_s = max(now_s, self._last_send_s) if self._last_send_s < math.inf else now_s
        round_trip_s = way_s + DELAYED_ACK_S
        self._pubacks.append((now_s + round_trip_s, round_trip_s))

    def _hear_of_pubacks(self, now_s: float) -> None:
        """Take note of the PUBACKs that have been acknowledged by now."""
        while self._pubacks and self._pubacks[0][0] <= now_s:
            back_s, round_trip_s = self._pubacks.popleft()
            self._round_trips.note(round_trip_s)
            if back_s - round_trip_s >= self._flight_end_s:
                self._flight_end_s = back_s
                self._round_trips.end_flight()

    def _rest(self, now_s: float) -> None:
        """Halve the window for every timeout of silence, RFC 2861; it is none while a PUBACK is under way."""
        if self._pubacks:
            return
        silence_s, timeout_s = now_s - self._last_send_s, self._round_trips.timeout_s
        window = self.window
        if silence_s > timeout_s:
            window.threshold = max(window.threshold, 3 * window.size // 4)
            least = min(window.size, INITIAL_WINDOW)
            window.size = max(least, window.size >> math.ceil(silence_s / timeout_s) - 1)
        if silence_s > 0:
            window.rested(silence_s)
