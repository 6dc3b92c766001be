"""One direction of the links of many devices at once: what TcpLink does for one, for columns of numbers."""

import functools
from collections.abc import Sequence
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from broker.wire.link_bytes import ACKNOWLEDGED_SEGMENTS, framed_bytes, segments_of
from sim.network.links.link import (
    KEPT,
    LEAST_GAP_S,
    MARGIN_GAIN,
    MARGIN_PER_QUEUE,
    TcpLink,
    evenly,
)
from sim.network.links.path import Path
from sim.network.links.tcp.receiver import DELAYED_ACK_S
from sim.network.links.tcp.round_trips import LEAST_MARGIN_S, MEAN_GAIN
from sim.network.links.tcp.window import INITIAL_WINDOW

Numbers = NDArray[np.float64]
Columns = NDArray[np.int64]

FREE, IDLE, ARRIVAL, QUEUED, USUALLY, MARGIN, BUSY, PUBACKED, GAP, PUBACKS, WINDOW = range(11)
"""What a TcpLink keeps in mind from one message to the next, in the order of a row."""

_FIELDS = (
    "free_s",
    "_idle_since_s",
    "_last_arrival_s",
    "_queued_s",
    "_usually_queued_s",
    "_margin_s",
    "busy_s",
    "_pubacked_s",
    "_puback_gap_s",
    "_pubacks",
    "_window",
)
_fields_of = attrgetter(*_FIELDS)

_MOST_HALVINGS = 62


class ManyLinks:
    """Links of their own, on which nothing is lost and that do not change.

    `carry` and `acknowledge` come to the same numbers as those of TcpLink, to the last bit. They are told
    columns of links that have the same path; no column twice.

    Args:
        columns: so many links.
    """

    def __init__(self, columns: int) -> None:
        self._rows = np.zeros((columns, len(_FIELDS)))  # what belongs to one link stands together in memory

    def take(self, columns: Columns, links: Sequence[TcpLink]) -> None:
        """Let columns be these links as they are; a single link is what all of them are like."""
        self._rows[columns] = np.array(list(map(_fields_of, links)), dtype=np.float64)

    def copy(self, columns: Columns) -> Numbers:
        """Give what these links keep in mind, shape (k, 11)."""
        return self._rows[columns]

    def give(self, column: int, link: TcpLink, fields: Numbers | None = None) -> None:
        """Let a link be what its column is, or what it was when `copy` gave it."""
        *times, pubacks, window = (self._rows[column] if fields is None else fields).tolist()
        for name, value in zip(_FIELDS, (*times, int(pubacks), int(window)), strict=True):
            setattr(link, name, value)

    def occupy(self, columns: Columns, busy_s: Numbers) -> None:
        """Count how long messages keep links busy, which `carry` leaves to whoever counts."""
        self._rows[columns, BUSY] += busy_s

    def busy_s(self, columns: Columns) -> Numbers:
        """Give how long messages have kept links busy."""
        busy_s: Numbers = self._rows[columns, BUSY]
        return busy_s

    def carry(
        self, columns: Columns, path: Path, now_s: float | Numbers, payload_bytes: int, one_way_s: Numbers
    ) -> tuple[Numbers, Numbers, Numbers]:
        """Take a message on each link; give when it begins to leave, has left, and arrives.

        Args:
            columns: of k links.
            path: of them.
            now_s: virtual time, for all or for each.
            payload_bytes: of MQTT.
            one_way_s: drawn for each.
        """
        links = self._rows[columns].T
        start_s = np.maximum(now_s, links[FREE])
        end_s = start_s + framed_bytes(payload_bytes) / path.bytes_per_s
        sent_s = end_s + _delay_s(links, start_s, segments_of(payload_bytes), path)
        arrival_s = np.maximum(sent_s + one_way_s, links[ARRIVAL])
        links[FREE] = links[IDLE] = sent_s
        links[ARRIVAL] = arrival_s
        self._rows[columns] = links.T
        return start_s, sent_s, arrival_s

    def acknowledge(self, columns: Columns, path: Path, from_s: Numbers, to_s: Numbers, packets: int) -> None:
        """Let PUBACKs for the packets of a message pass on each link, that came the other way."""
        links = self._rows[columns].T
        grown = links[WINDOW] > INITIAL_WINDOW
        if not packets or not grown.any():
            return
        for share in evenly(packets):
            at_s = from_s + (to_s - from_s) * share
            heard = grown & (at_s > links[IDLE])
            _age(links, at_s, path, heard)
            links[IDLE] = np.where(heard, at_s, links[IDLE])
            links[QUEUED] = np.where(heard, 0.0, links[QUEUED])
            links[PUBACKS] = np.where(heard, packets, links[PUBACKS])
            links[GAP] = np.where(heard, np.maximum(LEAST_GAP_S, (to_s - from_s) / packets), links[GAP])
            links[PUBACKED] = np.where(heard, at_s + 2 * path.latency_s + DELAYED_ACK_S, links[PUBACKED])
        self._rows[columns] = links.T


def _age(links: Numbers, at_s: Numbers, path: Path, which: NDArray[np.bool_]) -> None:
    """Halve the windows of some links for every retransmission timeout of silence."""
    grown = which & (links[WINDOW] > INITIAL_WINDOW)
    if not grown.any():
        return
    silence_s = at_s - links[IDLE] + links[QUEUED]
    timeout_s = path.round_trip_s + links[USUALLY] + links[MARGIN]
    halvings = np.clip(silence_s / timeout_s, 0, _MOST_HALVINGS).astype(np.int64)
    window = np.maximum(INITIAL_WINDOW, links[WINDOW].astype(np.int64) >> halvings)
    links[WINDOW] = np.where(grown, window, links[WINDOW])


def _delay_s(links: Numbers, start_s: Numbers, segments: int, path: Path) -> Numbers:
    """Do as TcpLink.delay_s."""
    _age(links, start_s, path, np.ones(len(start_s), dtype=bool))
    window = links[WINDOW]
    pubacks = np.zeros(len(start_s))
    under_way = (links[PUBACKED] > start_s) & (window > INITIAL_WINDOW)
    if under_way.any():
        gaps = (links[PUBACKED][under_way] - start_s[under_way]) / links[GAP][under_way]
        pubacks[under_way] = np.minimum(links[PUBACKS][under_way], 1 + np.floor(gaps))
    in_one = segments + pubacks <= window
    if in_one.all():
        _send_one_flight(links, segments, path)
        return np.zeros(len(start_s))
    delay_s = np.zeros(len(start_s))
    several = np.flatnonzero(~in_one)
    some = links[:, several]
    delay_s[several] = _send_flights(some, start_s[several], segments, pubacks[several], path)
    links[:, several] = some
    if len(several) < len(delay_s):
        one = np.flatnonzero(in_one)
        some = links[:, one]
        _send_one_flight(some, segments, path)
        links[:, one] = some
    return delay_s


def _send_one_flight(links: Numbers, segments: int, path: Path) -> None:
    queued_s = segments * path.segment_s
    links[WINDOW] = np.maximum(links[WINDOW], 2 * segments)
    links[QUEUED] = queued_s
    kept = KEPT[segments] if segments < len(KEPT) else 0.0
    links[USUALLY] = queued_s + kept * (links[USUALLY] - queued_s)
    margin_s = max(LEAST_MARGIN_S, MARGIN_PER_QUEUE * queued_s)
    links[MARGIN] += MARGIN_GAIN * (margin_s - links[MARGIN])


def _send_flights(links: Numbers, start_s: Numbers, segments: int, pubacks: Numbers, path: Path) -> Numbers:
    """Send flight after flight; give the pauses between them, seconds."""
    count = links.shape[1]
    left, flights = np.full(count, float(segments)), np.zeros(count, dtype=np.int64)
    queue, longest = np.zeros(count), np.zeros(count)
    window, usually_s = links[WINDOW], links[USUALLY]
    needed = np.floor((segments + pubacks - window + 1) / 2)
    wait_s = links[PUBACKED] - (pubacks - needed) * links[GAP] - start_s
    wait_s = np.minimum(wait_s, path.round_trip_s)
    wait_s = np.maximum(0.0, wait_s - np.maximum(0, window - pubacks) * path.segment_s)
    pauses_s = np.where((pubacks > 0) & (segments <= window + pubacks), wait_s, 0.0)
    window = window + pubacks
    remains = _remains(segments)
    while (going := left > 0).any():
        flight = np.where(going, np.minimum(left, window), 0.0)
        queue, longest = np.maximum(queue, flight), np.maximum(longest, flight)
        forgotten = remains[flight.astype(np.int64)]
        learnt_s = usually_s + (1 - forgotten) * (flight * path.segment_s - usually_s)
        usually_s = np.where(going, learnt_s, usually_s)
        left -= flight
        flights += going
        pause_s = np.where(going & (left > 0), path.round_trip_s - flight * path.segment_s, 0.0)
        window = np.where(going & ((flights > 1) | (2 * flight > window)), window + flight, window)
        waits = pause_s > 0
        pauses_s = np.where(waits, pauses_s + pause_s, pauses_s)
        queue = np.where(waits, 0.0, queue)
    links[WINDOW], links[QUEUED], links[USUALLY] = window, queue * path.segment_s, usually_s
    margin_s = np.maximum(LEAST_MARGIN_S, MARGIN_PER_QUEUE * longest * path.segment_s)
    faded = np.array([(1 - MARGIN_GAIN) ** number for number in range(int(flights.max()) + 1)])[flights]
    links[MARGIN] = margin_s + (links[MARGIN] - margin_s) * faded
    return pauses_s


@functools.lru_cache(maxsize=16)
def _remains(segments: int) -> Numbers:
    """Give what remains of TCP's mean after a flight of 0 to so many segments, as Python computes it."""
    return np.array([(1 - MEAN_GAIN) ** (flight / ACKNOWLEDGED_SEGMENTS) for flight in range(segments + 1)])
