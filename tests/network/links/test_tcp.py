"""The parts of a link's TCP, each by itself, with numbers worked out on paper.

A full packet takes 1 ms on the fast link here; two of them and their acknowledgement 102 ms.
"""

import math

import pytest

from broker.wire.link_bytes import SEGMENT_BYTES
from scenarios.schema.links import Link
from sim.network.links.changing_link import links_of
from sim.network.links.link import Carried, TcpLink
from sim.network.links.path import Path, path_of
from sim.network.links.random_stream import RandomStream
from sim.network.links.tcp.round_trips import LEAST_MARGIN_S

FAST = path_of(Link(uplink_kbps=12_000, latency_ms=50), "up")
ONE_SIGMA = 0.8413447460685429
"""The share of a normal distribution below its mean and one standard deviation."""


@pytest.fixture(autouse=True)
def forget_paths() -> None:
    """Paths are kept for links that are alike; here each test makes its own."""
    path_of.cache_clear()


def tcp(path: Path = FAST, *, window: int = 10) -> TcpLink:
    link = TcpLink(path, seed=7, owner=("c0", "up"))
    link._window = window
    return link


def test_both_directions_of_a_link_in_seconds_and_bytes() -> None:
    link = Link(uplink_kbps=12_000, downlink_kbps=6_000, latency_ms=50, loss=0.01)
    up = Path(1.5e6, 0.001, 0.05, None, 0.01, None, 0.0, 0.102, instant=False)
    down = Path(7.5e5, 0.002, 0.05, None, 0.01, None, 0.0, 0.104, instant=False)
    for path, expected in ((path_of(link, "up"), up), (path_of(link, "down"), down)):
        numbers = path.bytes_per_s, path.segment_s, path.latency_s, path.loss, path.round_trip_s
        assert numbers == pytest.approx(
            (
                expected.bytes_per_s,
                expected.segment_s,
                expected.latency_s,
                expected.loss,
                expected.round_trip_s,
            )
        )
        assert (path.one_way_s, path.instant) == (None, False)


def test_an_unlimited_link_takes_no_time_for_a_packet() -> None:
    path = path_of(Link(), "up")
    assert (path.bytes_per_s, path.segment_s, path.round_trip_s) == (math.inf, 0.0, 0.0)
    assert path.instant


@pytest.mark.parametrize(
    "link", [{"uplink_kbps": 8}, {"latency_ms": 1}, {"latency_ms": 1, "jitter_ms": 1}, {"loss": 0.1}]
)
def test_a_link_that_limits_anything_takes_time(link: dict[str, float]) -> None:
    assert not path_of(Link.model_validate(link), "up").instant


@pytest.mark.parametrize(
    ("jitter", "jitter_ms", "probability", "seconds"),
    [
        ("normal", 20, 0.5, 0.1),
        ("normal", 20, ONE_SIGMA, 0.12),
        ("normal", 20, 1 - ONE_SIGMA, 0.08),
        ("normal", 200, 1 - ONE_SIGMA, 0.0),  # never below 0
        ("uniform", 20, 0.5, 0.1),
        ("uniform", 20, 1.0, 0.1 + 0.02 * math.sqrt(3)),
        ("uniform", 20, 0.0, 0.1 - 0.02 * math.sqrt(3)),
        ("uniform", 200, 0.0, 0.0),
        # the deviation is the mean: sigma^2 = ln 2
        ("lognormal", 100, 0.5, 0.1 / math.sqrt(2)),
        ("lognormal", 100, ONE_SIGMA, 0.1 / math.sqrt(2) * math.exp(math.sqrt(math.log(2)))),
    ],
)
def test_times_one_way_follow_their_distribution(
    jitter: str, jitter_ms: float, probability: float, seconds: float
) -> None:
    link = Link.model_validate({"latency_ms": 100, "jitter_ms": jitter_ms, "jitter": jitter})
    one_way_s = path_of(link, "up").one_way_s
    assert one_way_s is not None
    assert one_way_s(probability) == pytest.approx(seconds, abs=1e-12)


def test_jitter_and_losses_of_a_link_are_streams_named_after_owner_and_direction() -> None:
    link = Link(latency_ms=100, jitter_ms=20, jitter="uniform", loss=0.25)
    for tcp_link, way in zip(links_of(link, seed=3, owner="c5"), ("up", "down"), strict=True):
        one_way_s = tcp_link.path.one_way_s
        assert one_way_s is not None
        assert tcp_link.propagation_s() == one_way_s(RandomStream(3, "jitter", "c5", way).uniform())
        draws, losses = RandomStream(3, "loss", "c5", way), tcp_link._losses
        assert losses is not None
        for _ in range(20):
            assert losses.is_lost(tcp_link.path) == (draws.uniform() < 0.25)


def test_each_direction_of_a_link_has_its_own_rate() -> None:
    up, down = links_of(Link(uplink_kbps=8, downlink_kbps=16), seed=3, owner="c5")
    assert (up.path.bytes_per_s, down.path.bytes_per_s) == (1000, 2000)


def test_without_jitter_or_loss_nothing_is_drawn() -> None:
    link = tcp()
    assert (link.jitter, link._losses) == (None, None)
    assert (link.propagation_s(), link.latency_s) == (0.05, 0.05)


@pytest.mark.parametrize(
    ("window", "segments", "grown"),
    [
        pytest.param(10, 10, 20, id="slow start doubles"),
        pytest.param(10, 6, 12, id="to twice what was sent"),
        pytest.param(10, 5, 10, id="not if half of it was not used"),
        pytest.param(40, 70, 110, id="by all of a message that was longer than the window"),
    ],
)
def test_the_window_grows(window: int, segments: int, grown: int) -> None:
    link = tcp(window=window)
    link.delay_s(0.0, segments * SEGMENT_BYTES)
    assert link._window == grown


@pytest.mark.parametrize(
    ("puback_s", "segments", "pauses_s", "grown"),
    [
        pytest.param(0.80, 20, 0.0, 40, id="acknowledged before"),
        pytest.param(0.93, 19, 0.0, 38, id="there is room beside it"),
        pytest.param(0.93, 20, 0.070 - 0.019, 41, id="its acknowledgement lets the last one go"),
        pytest.param(0.93, 21, 0.070 - 0.019, 42, id="and one more"),
        pytest.param(0.93, 22, 0.102 - 0.021, 43, id="but others wait for that of the first"),
        pytest.param(0.99, 20, 0.102 - 0.019, 41, id="which may come before"),
    ],
)
def test_a_puback_under_way_is_a_segment_of_the_window(
    puback_s: float, segments: int, pauses_s: float, grown: int
) -> None:
    # its acknowledgement comes 140 ms after it
    link = tcp(window=20)
    link._idle_since_s = puback_s - 0.1  # no silence before
    link.acknowledge(puback_s - 0.1, puback_s, 1)
    assert link.delay_s(1.0, segments * SEGMENT_BYTES) == pytest.approx(pauses_s)
    assert link._window == grown


@pytest.mark.parametrize(
    ("segments", "pauses_s"),
    [
        pytest.param(17, 0.0, id="three are under way, and leave room for so many"),
        pytest.param(19, 0.0, id="the first is acknowledged while these leave, and lets two others go"),
        pytest.param(20, 0.030 - 0.017, id="the second after them"),
        pytest.param(23, 0.050 - 0.017, id="then the last"),
        pytest.param(24, 0.102 - 0.023, id="and the rest waits for the first segment's"),
    ],
)
def test_several_pubacks_are_acknowledged_one_after_another(segments: int, pauses_s: float) -> None:
    link = tcp(window=20)
    link._idle_since_s = 0.83
    link.acknowledge(0.85, 0.93, 4)  # at 0.87, 0.89, 0.91 and 0.93, each acknowledged 140 ms later
    assert link.delay_s(1.02, segments * SEGMENT_BYTES) == pytest.approx(pauses_s)


def test_a_line_that_waits_for_no_acknowledgement_keeps_the_longest_flight_in_its_queue() -> None:
    link = tcp()
    link.delay_s(0.0, 30 * SEGMENT_BYTES)  # 10, a pause, 20
    assert link._queued_s == pytest.approx(0.020)
    remembered = [1 - (7 / 8) ** 5, 1 - (7 / 8) ** 10]  # of 5 acknowledgements, and of 10
    first_s = remembered[0] * 0.010
    assert link._usually_queued_s == pytest.approx(first_s + remembered[1] * (0.020 - first_s))
    link._window = 160
    link.delay_s(0.0, 180 * SEGMENT_BYTES)  # 160, longer than the round trip, and 20
    assert link._queued_s == pytest.approx(0.160)


@pytest.mark.parametrize(
    ("window", "silence_s", "left"),
    [
        (80, 0.30, 80),
        (80, 0.31, 40),
        (80, 0.61, 20),
        (80, 9.0, 10),
        (12, 0.31, 10),
        (10, 9.0, 10),
        (5, 9.0, 5),
    ],
)
def test_silence_halves_the_window_down_to_the_initial_one(window: int, silence_s: float, left: int) -> None:
    link = tcp(window=window)
    link._idle_since_s, link._margin_s = 4.0, LEAST_MARGIN_S
    link._age(4.0 + silence_s)
    assert link._window == left


def test_acknowledgements_that_come_before_the_line_was_idle_change_nothing() -> None:
    link = tcp(window=80)
    link._idle_since_s, link._queued_s, link._margin_s = 4.0, 0.1, LEAST_MARGIN_S
    link.acknowledge(1.0, 3.0, 4)
    assert (link._window, link._idle_since_s, link._queued_s) == (80, 4.0, 0.1)
    link.acknowledge(3.0, 5.0, 4)  # the last two come at 4.5 and 5
    assert (link._window, link._idle_since_s, link._queued_s) == (20, 5.0, 0.0)


def test_the_timeout_begins_with_three_round_trips_and_falls_to_a_fifth_of_a_second_above_one() -> None:
    link = tcp()
    assert link._margin_s == pytest.approx(2 * 0.102)
    slow = tcp(path_of(Link(uplink_kbps=12_000, latency_ms=300), "up"))
    margins_s = []
    for _ in range(30):
        margins_s.append(slow._margin_s)
        slow.delay_s(0.0, SEGMENT_BYTES)
    assert margins_s[0] == pytest.approx(2 * 0.602)
    assert margins_s[1] == pytest.approx(0.2 + 0.75 * (1.204 - 0.2))
    assert margins_s[-1] == pytest.approx(0.2, rel=0.01)


def test_an_acknowledgement_comes_when_its_packet_has() -> None:
    link = tcp(window=80)
    link._idle_since_s, link._queued_s, link._margin_s = 4.0, 0.1, LEAST_MARGIN_S
    link.acknowledge(3.0, 4.0, 1)
    assert (link._idle_since_s, link._queued_s) == (4.0, 0.1)
    link.acknowledge(4.4, 5.0, 1)  # at 5 alone: three timeouts after 4
    assert link._window == 10


def test_a_line_with_the_initial_window_does_not_look_at_acknowledgements() -> None:
    link = tcp(window=10)
    link.acknowledge(1.0, 3.0, 4)
    assert link._idle_since_s == 0.0


def test_a_new_connection_knows_nothing_of_the_one_before() -> None:
    link = tcp(window=40)
    link.depart(0.0, 1.0, 10)
    link._usually_queued_s = link._queued_s = 2.0
    link.reset()
    state = link._idle_since_s, link._last_arrival_s, link._queued_s, link._usually_queued_s
    assert (*state, link._window) == (0.0, 0.0, 0.0, 0.0, 10)
    assert link._margin_s == pytest.approx(2 * 0.102)


def test_a_message_arrives_no_earlier_than_the_one_before() -> None:
    link = tcp()
    link._last_arrival_s = 9.0
    assert link.depart(1.0, 2.0, 10) == Carried(1.0, 2.0, 9.0)
    assert (link._idle_since_s, link._last_arrival_s) == (2.0, 9.0)
    assert link.depart(11.0, 12.0, 10) == Carried(11.0, 12.0, 12.05)
