"""The settings of benchmarks.tcp_grid: a balanced sample of links and messages, and how it is divided."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scenarios.schema.links import GilbertElliott, Link
from scenarios.schema.network import AccessPoint

LOSSES = (0.0, 0.001, 0.003, 0.01, 0.03)
MESSAGES_KB = (10, 100, 700)
ROUND_TRIPS_MS = (20, 60, 200, 600)
RATES_KBPS = (250, 1000, 4000, 12_000, 50_000)
PAUSES_S = (0.02, 0.1, 0.5)
SHARERS = 4

SAMPLE = 80
SAMPLE_SEED, SPLIT_SEED = 13, 1988
"""Chosen before anything was measured."""

STANDARD_ERROR = 0.015
"""Of a setting's mean, relative; then it is known well enough."""

_PACKETS_PER_S = 2500
_TURN_S = 40.0
_FEWEST_BLOCKS = 8
_MESSAGES_PER_TURN = 400

Half = Literal["correcting", "untouched"]


@dataclass(frozen=True)
class Setting:
    """A link, what shares it, and what is said on it.

    Attributes:
        name: says what it is like.
        half: "correcting": the model may be corrected by it; "untouched": it is only looked at in the end.
        link: of each client.
        point: what clients share; None: each has its link alone.
        message_bytes: of a message and of its answer, with MQTT's headers.
        pause_s: mean time before each of them.
    """

    name: str
    half: Half
    link: Link
    point: AccessPoint | None
    message_bytes: int
    pause_s: float

    @property
    def sharers(self) -> int:
        """Clients behind one access point; 1 without."""
        return 1 if self.point is None else SHARERS

    @property
    def expected_s(self) -> float:
        """What a message takes, roughly: at full rate, or at that of Mathis et al. (1997)."""
        kbps = min(rate for rate in (self.link.uplink_kbps, self.link.downlink_kbps, 1e6) if rate)
        round_trip_s = 2 * self.link.latency_ms / 1000
        loss = self.link.loss.mean if isinstance(self.link.loss, GilbertElliott) else self.link.loss
        segment_s: float = max(1448 * 8 / 1000 / kbps, round_trip_s * (2 * loss / 3) ** 0.5)
        return float(self.message_bytes / 1448 * segment_s + round_trip_s)

    @property
    def changes(self) -> bool:
        """Whether rates change."""
        return self.link.changes or (self.point is not None and self.point.link.changes)

    @property
    def rates_kbps(self) -> tuple[float, float]:
        """What gets through at most, up and down."""
        limits = [self.link] if self.point is None else [self.link, self.point.link]
        return (
            min(limit.uplink_kbps or 1e9 for limit in limits),
            min(limit.downlink_kbps or 1e9 for limit in limits),
        )

    @property
    def clients(self) -> int:
        """As many at the same time as the forwarder can well serve: whole groups of sharers."""
        per_s = self.message_bytes / 1448 / (self.expected_s + self.pause_s)
        groups = int(_PACKETS_PER_S / per_s / self.sharers)
        return self.sharers * max(1, min(32 // self.sharers, groups))

    @property
    def warm_up(self) -> int:
        """Exchanges of a conversation that are not counted."""
        return 1 if self.exchanges < 8 else 2

    @property
    def exchanges(self) -> int:
        """Exchanges of a conversation that are counted."""
        possible = int(_TURN_S / 2 / (self.expected_s + self.pause_s))
        return max(2, min(20, possible, _MESSAGES_PER_TURN // 2 // self.clients))

    def pause(self, rng: random.Random) -> float:
        """Draw a pause in seconds."""
        return self.pause_s * rng.uniform(0.5, 1.5)

    def enough(self, seconds: Sequence[Sequence[float]]) -> bool:
        """Say whether the mean is known well enough; never where the whole course of a link counts."""
        blocks = len(seconds) // self.sharers
        return not self.changes and blocks >= _FEWEST_BLOCKS and self.mean(seconds)[1] <= STANDARD_ERROR

    def mean(self, seconds: Sequence[Sequence[float]]) -> tuple[float, float]:
        """Give the mean of messages, and its relative standard error.

        Messages of a connection follow each other and clients behind one access point disturb each other, so
        that is taken from the means of connections, or of groups of clients.
        """
        blocks = [
            statistics.mean(second for talk in seconds[first : first + self.sharers] for second in talk)
            for first in range(0, len(seconds), self.sharers)
        ]
        mean_s = statistics.mean(blocks)
        if len(blocks) == 1:
            return mean_s, 1.0
        return mean_s, statistics.stdev(blocks) / len(blocks) ** 0.5 / mean_s


def settings_of() -> list[Setting]:
    """Give the sample: each value of each quantity equally often, in combinations drawn by a seed."""
    rng = random.Random(SAMPLE_SEED)
    columns = [
        _equally(values, rng)
        for values in (LOSSES, MESSAGES_KB, ROUND_TRIPS_MS, RATES_KBPS, PAUSES_S, (False, True))
    ]
    rows = sorted(set(zip(*columns, strict=True)))
    settings: list[Setting] = []
    random.Random(SPLIT_SEED).shuffle(rows)
    rows.sort(key=lambda row: (row[0], row[5]))  # so that each loss, alone and shared, is halved
    for number, (loss, message_kb, round_trip_ms, rate, pause_s, shared) in enumerate(rows):
        own = rate / 2 if shared else rate
        settings.append(
            Setting(
                name=f"{message_kb} kB, {rate / 1000:g} Mbit/s, {round_trip_ms} ms, {100 * loss:g} %"
                f"{', shared' if shared else ''}, pause {pause_s:g} s",
                half="correcting" if number % 2 else "untouched",
                link=Link(uplink_kbps=own, downlink_kbps=own, latency_ms=round_trip_ms / 2, loss=loss),
                point=AccessPoint(uplink_kbps=rate, downlink_kbps=rate) if shared else None,
                message_bytes=1000 * message_kb,
                pause_s=pause_s,
            )
        )
    return settings


def _equally(values: Sequence[float], rng: random.Random) -> list[float]:
    """Give each value equally often, SAMPLE in all, in random order."""
    column = [values[number % len(values)] for number in range(SAMPLE)]
    rng.shuffle(column)
    return column


def kinds_of() -> list[Setting]:
    """Give settings of links that change, with jitter, or with loss in bursts; half of each kind."""
    train = Link(trace="train-lte", start="together", uplink_kbps=2_700, downlink_kbps=7_100, latency_ms=50)
    walk = Link(
        trace="walk-5g", start="together", uplink_kbps=44_000, downlink_kbps=44_000, latency_ms=20
    )  # means
    # of a bad state less than half is lost: else the mean of timeouts that double has no end
    bursts = GilbertElliott(p=0.008, r=0.2, loss_in_bad=0.3)
    more = GilbertElliott(p=0.02, r=0.2, loss_in_bad=0.3)
    long = GilbertElliott(p=0.002, r=0.05, loss_in_bad=0.3)
    kinds: dict[str, list[tuple[str, Link, AccessPoint | None, int, float]]] = {
        "trace": [
            ("train-lte", train, None, 10, 0.1),
            ("train-lte", train, None, 100, 0.5),
            ("walk-5g", walk, None, 100, 0.1),
            ("walk-5g", walk, None, 700, 0.5),
        ],
        "jitter": [
            ("5 of 20 ms, 4 Mbit/s", _link(4_000, 20, jitter_ms=5), None, 100, 0.1),
            ("20 of 50 ms, 12 Mbit/s", _link(12_000, 50, jitter_ms=20), None, 10, 0.1),
            ("30 of 60 ms, 1 Mbit/s", _link(1_000, 60, jitter_ms=30, jitter="lognormal"), None, 100, 0.5),
            ("10 of 50 ms, 50 Mbit/s", _link(50_000, 50, jitter_ms=10), None, 700, 0.1),
        ],
        "bursts": [
            ("1 %, 12 Mbit/s, 60 ms", _link(12_000, 30, loss=bursts), None, 100, 0.5),
            ("3 %, 1 Mbit/s, 200 ms", _link(1_000, 100, loss=more), None, 10, 0.1),
            ("1 %, 4 Mbit/s, 60 ms", _link(4_000, 30, loss=long), None, 700, 0.1),
            ("1 %, 50 Mbit/s, 20 ms", _link(50_000, 10, loss=bursts), None, 100, 0.1),
        ],
        "shared trace": [
            ("train-lte", _link(4_000, 20), AccessPoint(trace="train-lte"), 100, 0.5),
            ("train-lte, 0.3 %", _link(4_000, 20, loss=0.003), AccessPoint(trace="train-lte"), 100, 0.1),
            ("walk-5g", _link(20_000, 20), AccessPoint(trace="walk-5g"), 700, 0.1),
            ("walk-5g, 0.3 %", _link(20_000, 20, loss=0.003), AccessPoint(trace="walk-5g"), 100, 0.02),
        ],
    }
    jitter = _link(20_000, 20, jitter_ms=8)
    lossy = _link(8_000, 40, jitter_ms=15, jitter="uniform", loss=0.01)
    wide = AccessPoint(uplink_kbps=40_000, downlink_kbps=40_000)
    narrow = AccessPoint(uplink_kbps=20_000, downlink_kbps=20_000)
    kinds["jitter and more"] = [
        ("1 % lost", lossy, None, 100, 0.5),
        ("50 of 150 ms", _link(2_000, 150, jitter_ms=50, jitter="lognormal"), None, 700, 0.1),
        ("3 of 15 ms", _link(50_000, 15, jitter_ms=3), None, 100, 0.1),
        ("15 of 80 ms", _link(12_000, 80, jitter_ms=15), None, 700, 0.5),
        ("walk-5g", walk.model_copy(update={"jitter_ms": 8, "jitter_per": "packet"}), None, 100, 0.1),
        ("shared", jitter, wide, 100, 0.1),
        ("shared, 0.3 % lost", jitter.model_copy(update={"loss": 0.003}), narrow, 700, 0.1),
        ("shared train-lte", jitter, AccessPoint(trace="train-lte"), 10, 0.1),
    ]
    rng, settings = random.Random(SPLIT_SEED), list[Setting]()
    for kind, rows in kinds.items():
        rng.shuffle(rows)
        for number, (what, link, point, message_kb, pause_s) in enumerate(rows):
            settings.append(
                Setting(
                    name=f"{kind}: {what}, {message_kb} kB, pause {pause_s:g} s",
                    half="correcting" if number % 2 else "untouched",
                    link=link,
                    point=point,
                    message_bytes=1000 * message_kb,
                    pause_s=pause_s,
                )
            )
    return settings


def _link(kbps: float, latency_ms: float, **more: object) -> Link:
    """Give a link with the same rate both ways; jitter is for each packet, as the forwarder draws it."""
    link = {"uplink_kbps": kbps, "downlink_kbps": kbps, "latency_ms": latency_ms, "jitter_per": "packet"}
    return Link.model_validate(link | more)
