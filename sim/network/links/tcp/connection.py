"""A TCP connection on a link that loses packets; it lasts from one message to the next."""

import math
from collections.abc import Callable, Sequence

from sim.network.links.tcp.receiver import DELAYED_ACK_S
from sim.network.links.tcp.round_trips import RoundTrips
from sim.network.links.tcp.transfer import Transfer
from sim.network.links.tcp.window import INITIAL_WINDOW, Reno


class Connection:
    """What TCP knows at one end.

    Args:
        window: of its congestion control.
        round_trip_s: of the handshake.
    """

    __slots__ = ("_last_send_s", "_round_trips", "_segments", "window")

    def __init__(self, window: Reno, round_trip_s: float) -> None:
        self.window = window
        self._round_trips = RoundTrips(round_trip_s)
        self._last_send_s = math.inf
        self._segments = 0

    def send(
        self,
        start_s: float,
        segments: int,
        last: float,
        segment_s: float,
        latency_s: float,
        is_lost: Callable[[], bool],
        is_ack_lost: Callable[[], bool],
    ) -> Sequence[tuple[float, int]]:
        """Send a message.

        Args:
            start_s: when it begins to leave.
            segments: of the message.
            last: length of its last one; a full packet's is 1.
            segment_s: time that a full packet takes.
            latency_s: time one way.
            is_lost: draws for a packet whether it is lost.
            is_ack_lost: the same for an acknowledgement.

        Returns:
            When it has arrived up to which segment, ascending; the first one is the start.
        """
        self._rest(start_s)
        transfer = Transfer(
            segments=segments,
            last=last,
            segment_s=segment_s,
            latency_s=latency_s,
            window=self.window,
            round_trips=self._round_trips,
            is_lost=is_lost,
            is_ack_lost=is_ack_lost,
            before=self._segments,
        )
        transfer.run(start_s)
        self._segments += segments
        self._last_send_s = transfer.last_send_s
        return transfer.receiver.progress

    def acknowledge(self, now_s: float, latency_s: float) -> None:
        """Send a PUBACK; it takes no time on the link, and is not lost."""
        if now_s > self._last_send_s:
            self._rest(now_s)
        self._last_send_s = max(now_s, self._last_send_s) if self._last_send_s < math.inf else now_s
        self._round_trips.note(2 * latency_s + DELAYED_ACK_S)
        self._round_trips.end_flight()

    def _rest(self, now_s: float) -> None:
        """Halve the window for every timeout of silence, RFC 2861."""
        silence_s, timeout_s = now_s - self._last_send_s, self._round_trips.timeout_s
        window = self.window
        if silence_s > timeout_s:
            window.threshold = max(window.threshold, 3 * window.size // 4)
            least = min(window.size, INITIAL_WINDOW)
            window.size = max(least, window.size >> math.ceil(silence_s / timeout_s) - 1)
        if silence_s > 0:
            window.rested(silence_s)
