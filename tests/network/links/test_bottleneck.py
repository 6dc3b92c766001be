"""Shared bottlenecks: literal event times, and any sequence of transfers against max-min by water-filling."""

import itertools
import math
import sys
from collections.abc import Sequence
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.network.clock import Clock
from sim.network.links.bottleneck import Bottleneck, Transfer

Planned = tuple[float, int, float, float | None]
"""When a transfer begins, its bytes, its cap, and after how many seconds it is aborted, if it is."""

CAPS = st.sampled_from([40.0, 100.0, 100.000001, 250.0, 1000.0, math.inf]) | st.floats(1, 1e4)
TRANSFERS = st.lists(
    st.tuples(
        st.integers(0, 20) | st.floats(0, 20),  # begins at, seconds
        st.integers(1, 3000),  # bytes
        CAPS,
        st.none() | st.floats(0, 10),  # seconds after which it is aborted
    ),
    max_size=14,
)


def fair_rates(caps: Sequence[float], capacity: float) -> list[float]:
    """Divide a capacity max-min fairly by water-filling: whoever needs least is served first."""
    rates = [0.0] * len(caps)
    left = capacity
    for already, which in enumerate(sorted(range(len(caps)), key=caps.__getitem__)):
        rates[which] = min(caps[which], left / (len(caps) - already))
        left = left - rates[which] if math.isfinite(rates[which]) else left
    return rates


def reference_ends(transfers: list[Planned], capacity: float) -> dict[int, float]:
    """Walk from event to event with all rates worked out anew; give when each transfer ends."""
    begins = sorted((begin, number) for number, (begin, *_) in enumerate(transfers))
    aborts = sorted(
        (begin + after, number) for number, (begin, _, _, after) in enumerate(transfers) if after is not None
    )
    left, ends, now = dict[int, float](), dict[int, float](), 0.0
    while begins or left:
        rates = dict(zip(left, fair_rates([transfers[n][2] for n in left], capacity), strict=True))
        finishes = {n: now + left[n] / rates[n] for n in left}
        then = min([*finishes.values(), *(at for at, _ in begins[:1]), *(at for at, _ in aborts[:1])])
        for n in left:
            left[n] = 0.0 if finishes[n] == then else left[n] - rates[n] * (then - now if then > now else 0)
        now = then
        for n in [n for n in left if left[n] <= min(rates[n], 1e300) * 1e-9]:
            ends[n] = now
            del left[n]
        while begins and begins[0][0] <= now:
            n = begins.pop(0)[1]
            left[n] = transfers[n][1]
        while aborts and aborts[0][0] <= now:
            left.pop(aborts.pop(0)[1], None)
    return ends


def simulated_ends(transfers: list[Planned], capacity: float) -> dict[int, float]:
    clock, ends = Clock(), dict[int, float]()
    bottleneck = Bottleneck(clock, capacity)

    def begin(number: int, size: int, cap: float, abort_after_s: float | None) -> None:
        transfer = Transfer(size, cap, lambda: ends.update({number: clock.now}))
        bottleneck.begin(transfer)
        if abort_after_s is not None:
            clock.at(clock.now + abort_after_s, abort, number, transfer)

    def abort(number: int, transfer: Transfer) -> None:
        if number not in ends:
            bottleneck.abort(transfer)

    for number, (at_s, size, cap, abort_after_s) in enumerate(transfers):
        clock.at(at_s, begin, number, size, cap, abort_after_s)
    clock.run()
    return ends


def test_the_reference_gives_whoever_needs_less_than_its_share_all_it_needs() -> None:
    assert fair_rates([10, 1, 10], 9) == [4, 1, 4]
    assert fair_rates([1, 2, 3], 100) == [1, 2, 3]
    assert fair_rates([math.inf, math.inf], 10) == [5, 5]
    assert fair_rates([3, math.inf, 5], math.inf) == [3, math.inf, 5]


@given(TRANSFERS, st.sampled_from([100.0, 300.0, 1e3, math.inf]) | st.floats(10, 1e4))
def test_any_sequence_of_transfers_ends_as_water_filling_says(
    transfers: list[Planned], capacity: float
) -> None:
    ends, expected = simulated_ends(transfers, capacity), reference_ends(transfers, capacity)
    for number in set(ends) ^ set(expected):  # aborted within rounding of its end
        begin_s, _, _, after_s = transfers[number]
        assert after_s is not None
        assert (ends | expected)[number] == pytest.approx(begin_s + after_s, abs=1e-6)
    both = sorted(set(ends) & set(expected))
    assert [ends[n] for n in both] == pytest.approx([expected[n] for n in both], rel=1e-9, abs=1e-6)


def test_transfers_share_and_speed_up_again() -> None:
    # 1000 byte/s: a alone has 500 bytes by 0.5; then both have 500 byte/s until a ends at 1.5
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 1000)

    def begin(name: str, cap: float) -> None:
        bottleneck.begin(Transfer(1000, cap, lambda: log.append((name, clock.now))))

    clock.at(0.0, begin, "a", 1000)
    clock.at(0.5, begin, "b", 1000)
    clock.at(5.0, begin, "slow", 100)
    clock.at(6.0, begin, "fast", 5000)
    clock.run()
    assert [name for name, _ in log] == ["a", "b", "fast", "slow"]
    assert [end_s for _, end_s in log] == pytest.approx([1.5, 2.0, 6.0 + 1000 / 900, 15.0])


def test_the_share_falls_below_caps_and_rises_above_them_again() -> None:
    # 900 byte/s: from 0, a has 200 and b 300; from 1, a 200 and the others 233.3 each, until c ends at 4 when
    # a lacks 1200, b 1000 and d 100; then a has 200, b 300 and d 400; d ends at 4.25 when a lacks 1150, b 925
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 900)

    def begin(name: str, size: int, cap: float) -> None:
        bottleneck.begin(Transfer(size, cap, lambda: log.append((name, clock.now))))

    clock.at(0.0, begin, "a", 2000, 200)
    clock.at(0.0, begin, "b", 2000, 300)
    clock.at(1.0, begin, "c", 700, math.inf)
    clock.at(1.0, begin, "d", 800, math.inf)
    clock.run()
    assert [name for name, _ in log] == ["c", "d", "b", "a"]
    assert [end_s for _, end_s in log] == pytest.approx([4.0, 4.25, 4.25 + 925 / 300, 10.0])


def test_transfers_that_end_together_are_done_in_the_order_in_which_they_began() -> None:
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 1000)

    def begin(name: str, size: int, cap: float) -> None:
        bottleneck.begin(Transfer(size, cap, lambda: log.append((name, clock.now))))

    begin("fair", 400, 500)
    begin("slow", 200, 200)
    begin("free", 400, math.inf)
    clock.run()
    assert log == [("fair", 1.0), ("slow", 1.0), ("free", 1.0)]


def test_an_aborted_transfer_gives_its_share_back_and_is_never_done() -> None:
    clock, log = Clock(), list[tuple[str, float]]()
    bottleneck = Bottleneck(clock, 1000)
    gone = Transfer(1000, 1000, lambda: log.append(("gone", clock.now)))
    bottleneck.begin(gone)
    bottleneck.begin(Transfer(1000, 1000, lambda: log.append(("stays", clock.now))))
    clock.at(1.0, bottleneck.abort, gone)
    clock.run()
    assert log == [("stays", 1.5)]


def test_many_transfers_pass_as_many_bytes_as_the_bottleneck_can() -> None:
    clock, ends = Clock(), []
    bottleneck = Bottleneck(clock, 1000)
    for size in range(1, 51):
        bottleneck.begin(Transfer(size, 1000, lambda: ends.append(clock.now)))
    clock.run()
    # the k-th shortest ends when all have k bytes and the shorter ones all of theirs
    expected = [(sum(range(1, k)) + (51 - k) * k) / 1000 for k in range(1, 51)]
    assert ends == pytest.approx(expected)


def test_transfers_end_where_a_float_of_the_time_is_coarser_than_a_nanosecond() -> None:
    clock, ends = Clock(), list[float]()
    bottleneck = Bottleneck(clock, 1000)
    for number in range(20):
        transfer = Transfer(300 + number, math.inf, lambda: ends.append(clock.now))
        clock.at(1e9 + number / 7, bottleneck.begin, transfer)
    for _ in range(200):
        if math.isfinite(clock.peek()):
            clock.step()
    assert len(ends) == 20
    assert ends[-1] == pytest.approx(1e9 + sum(range(300, 320)) / 1000, rel=1e-15)


@pytest.mark.parametrize("caps", [(1e6,), (1.0, 7.0, 1e6), tuple(map(float, range(1, 2001)))], ids=len)
def test_twice_the_transfers_cost_little_more_than_twice_the_work(caps: tuple[float, ...]) -> None:
    def calls(transfers: int) -> int:
        count = 0

        def see(_frame: FrameType, _event: str, _argument: object) -> None:
            nonlocal count
            count += 1

        clock = Clock()
        bottleneck = Bottleneck(clock, 1000)
        before = sys.getprofile()
        sys.setprofile(see)
        try:
            for size, cap in zip(range(transfers), itertools.cycle(caps), strict=False):
                bottleneck.begin(Transfer(1000 + size, cap, lambda: None))
            clock.run()
        finally:
            sys.setprofile(before)
        return count

    assert calls(1000) < 2.4 * calls(500)
