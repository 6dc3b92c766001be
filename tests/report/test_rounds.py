"""Where a round's time went and who held it up, on traces made by hand."""

import math
from collections.abc import Sequence

import pytest

from sim.chrome_trace import SERVER
from sim.report.lanes import OWN_CORES
from sim.report.rounds import RoundTime, round_times, windows
from sim.report.runs import Details, Event, Extent, TraceFile

LANES = ("server", "fast", "medium", "slow")


def span(lane: str, name: str, from_s: float, to_s: float, *of: int) -> Event:
    """Make a span; `of` is the round, and the step of what belongs to one."""
    details = Details(round=of[0] if of else None, step=of[1] if len(of) > 1 else None)
    return Event(name, "X", LANES.index(lane) + SERVER, from_s * 1e6, (to_s - from_s) * 1e6, details)


def made(*spans: Event, clients: int = 3, left_out: int = 0) -> TraceFile:
    lanes = [Event("process_name", "M", lane, args=Details(name)) for lane, name in enumerate(LANES, SERVER)]
    return TraceFile(Extent(clients, 3, left_out), [*lanes, *spans])


def part(client: str, at_s: float, *, computing_s: float = 1.0, down_s: float = 0.5, up_s: float = 0.5,
         number: int = 1) -> list[Event]:  # fmt: skip
    """Make a client's part in a round: down, compute, up, 0.25 s at the server, down, backward, up."""
    durations = [
        ("downlink", down_s, (number,)), ("compute", computing_s, ()), ("uplink", up_s, (number, 0)),
        ("tail", 0.25, ()), ("downlink", down_s, (number, 0)), ("backward", computing_s, ()),
        ("uplink", up_s, (number,)),
    ]  # fmt: skip
    spans = []
    for name, seconds, of in durations:
        spans.append(span(client, name, at_s, at_s + seconds, *of))
        at_s += seconds
    return spans


def judged(
    trace: TraceFile,
    ends_s: Sequence[float],
    *,
    virtual_s: float | None,
    overlapping: bool = False,
    one_machine: bool = False,
) -> list[RoundTime]:
    rows = [{"round": number, "elapsed_s": end_s} for number, end_s in enumerate(ends_s, 1)]
    return round_times(trace, rows, virtual_s=virtual_s, overlapping=overlapping, one_machine=one_machine)


def test_the_path_is_that_of_who_finished_last_and_adds_up_to_the_round() -> None:
    spans = [*part("fast", 10), *part("medium", 10, computing_s=2), *part("slow", 10, computing_s=8)]
    trace = made(*spans, span("server", "CloseRound", 28.25, 29))
    (time,) = judged(trace, [19], virtual_s=29)
    assert (time.client, time.cause, time.answered, time.missing) == ("slow", "compute", True, 0)
    assert (time.duration_s, time.lost_s) == (19, 13)  # 18.25 against the median of 4.25 and 6.25
    assert {phase: s for phase, s in time.seconds.items() if s} == {
        "downlink": 1, "compute": 8, "uplink": 1, "tail": 0.25, "decode + backward": 8, "closing": 0.75,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("slow", "cause", "lost_s"),
    [
        (part("slow", 0, up_s=5), "uplink", 9),
        (part("slow", 0, down_s=5), "downlink", 9),
        ([*part("slow", 0)[:3], span("slow", "queue", 2, 9), span("slow", "tail", 9, 9.25),
          span("slow", "uplink", 9.25, 13.25, 1)], "server", 9),
        ([*part("slow", 0)[:-1], span("slow", "uplink", 12.75, 13.25, 1)], "away or idle", 9),
        ([*part("slow", 0)[:-1], span("slow", "queue", 3.75, 12.75, 1),
          span("slow", "uplink", 12.75, 13.25, 1)], "away or idle", 9),
    ],
)  # fmt: skip
def test_the_cause_is_where_most_was_lost_against_the_median(
    slow: list[Event], cause: str, lost_s: float
) -> None:
    trace = made(*part("fast", 0), *part("medium", 0), *slow)
    (time,) = judged(trace, [13.25], virtual_s=13.25)
    assert (time.client, time.cause, time.lost_s) == ("slow", cause, lost_s)


def test_a_round_that_ends_without_somebody_at_work_waited_for_it() -> None:
    late = part("slow", 0, computing_s=40)  # computes until the second round is over
    trace = made(*part("fast", 0), *part("medium", 0), *late, *part("fast", 20, number=2))
    first, second = judged(trace, [20, 24.25], virtual_s=24.25)
    assert (first.client, first.cause, first.answered) == ("slow", "compute", False)
    assert first.seconds["compute"] == 19.5
    assert first.lost_s == 15.75
    assert (second.client, second.lost_s) == ("fast", 0)


def test_several_missing_are_counted() -> None:
    slow, medium = part("slow", 0, computing_s=40), part("medium", 0, computing_s=30)
    (time, _) = judged(
        made(*part("fast", 0), *medium, *slow, *part("fast", 20, number=2)), [20, 25], virtual_s=25
    )
    assert (time.client, time.missing) == ("slow", 1)


def test_who_vanished_after_its_last_sign_is_away() -> None:
    trace = made(*part("fast", 0), *part("medium", 0), *part("slow", 0)[:2])
    (time,) = judged(trace, [20], virtual_s=20)
    assert (time.client, time.cause, time.answered) == ("slow", "away or idle", False)
    assert time.seconds["waiting"] == 18.5


def test_a_member_that_never_appeared_is_not_named() -> None:
    (time,) = judged(made(*part("fast", 0)), [20], virtual_s=20)
    assert (time.client, time.cause, time.lost_s) == (None, "away or idle", 15.75)


def test_nobody_is_blamed_when_others_are_not_on_the_trace() -> None:
    (time,) = judged(made(*part("fast", 0), clients=100), [20], virtual_s=20)
    assert (time.client, time.cause, time.lost_s) == (None, "not on the trace", 15.75)
    (time,) = judged(made(span("server", "CloseRound", 19, 20), clients=100), [20], virtual_s=20)
    assert (time.client, time.cause, time.seconds) == (
        None,
        "not on the trace",
        {"closing": 1, "waiting": 19},
    )


def test_with_overlapping_rounds_old_answers_count() -> None:
    trace = made(*part("fast", 0), *part("fast", 5, number=2), *part("slow", 0, computing_s=3))
    second = judged(trace, [4.25, 9.25], virtual_s=9.25, overlapping=True)[1]
    assert (second.client, second.answered) == ("fast", True)
    trace = made(*part("fast", 0), *part("fast", 5, number=2), *part("slow", 0, computing_s=3.75))
    second = judged(trace, [4.25, 9.75], virtual_s=9.75, overlapping=True)[1]
    assert (second.client, second.answered) == ("slow", True)


def test_where_the_network_takes_no_time_the_last_work_is_the_answer() -> None:
    spans = [span("fast", "compute", 0, 1), span("slow", "compute", 0, 6), span("medium", "compute", 0, 2)]
    (time,) = judged(made(*spans), [6], virtual_s=6)
    assert (time.client, time.cause, time.lost_s) == ("slow", "compute", 4.5)


def test_rounds_are_placed_by_their_first_messages_or_by_the_end_of_virtual_time() -> None:
    rows = [{"round": 1, "elapsed_s": 5.0}, {"round": 2, "elapsed_s": 10.0}]
    messages = made(span("fast", "downlink", 100, 101, 1), span("fast", "downlink", 105, 106, 2))
    silent = made(span("fast", "compute", 100, 101))
    for trace, virtual_s in ((messages, None), (silent, 110)):
        found = [(w.round, w.from_s, w.to_s) for w in windows(trace, rows, virtual_s)]
        assert found == [(1, 100, 105), (2, 105, 110)]
    assert windows(silent, rows, None) == []


def test_rounds_after_the_cut_are_left_out() -> None:
    trace = made(*part("fast", 0), *part("fast", 5, number=2)[:3], left_out=1)
    assert [time.round for time in judged(trace, [5, 10], virtual_s=10)] == [1]


def test_overlapping_spans_are_counted_once() -> None:
    again = span("slow", "downlink", 0.5, 3, 1)  # repeated while it computes
    (time,) = judged(made(*part("slow", 0, computing_s=4), again), [10.25], virtual_s=10.25)
    assert math.isclose(sum(time.seconds.values()), 10.25)


def one_core() -> TraceFile:
    """Three clients at once, whose machine computes for one after the other."""
    spans = []
    for place, name in enumerate(("fast", "medium", "slow")):
        spans += [span(name, "downlink", 0, 0.5, 1), span(name, "compute", 0.5 + 2 * place, 2.5 + 2 * place),
                  span(name, "uplink", 2.5 + 2 * place, 3 + 2 * place, 1)]  # fmt: skip
    return made(*spans, span("server", "CloseRound", 7, 7.5))


def test_waiting_for_the_cores_of_one_machine_is_called_that_and_blames_nobody() -> None:
    (time,) = judged(one_core(), [7.5], virtual_s=None, one_machine=True)
    assert (time.client, time.cause) == (None, OWN_CORES)
    assert time.seconds[OWN_CORES] == pytest.approx(4)
    assert sum(time.seconds.values()) == pytest.approx(time.duration_s)


def test_devices_of_their_own_do_not_wait_for_cores() -> None:
    (time,) = judged(one_core(), [7.5], virtual_s=None)
    assert (time.client, time.cause) == ("slow", "away or idle")
    assert OWN_CORES not in time.seconds


def test_a_gap_in_which_nobody_computes_is_no_wait_for_a_core() -> None:
    spans = [*part("fast", 10), *part("medium", 10), *part("slow", 30)]
    trace = made(*spans, span("server", "CloseRound", 34.25, 35))
    (time,) = judged(trace, [25], virtual_s=None, one_machine=True)
    assert time.client == "slow"
    assert time.seconds[OWN_CORES] == pytest.approx(2)  # others compute 10.5 to 11.5, and backward as long
    assert time.seconds["waiting"] > 17
