"""The trace file: the rules of Chrome's format, its lanes and arrows, and its bounds."""

import itertools
import json
import random
from collections import defaultdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.machine.event_log import MAX_CLIENTS, MAX_WHOLE_FLEET
from sim.chrome_trace import SERVER, Trace
from sim.simulation.run import simulate
from tests.helpers import small_scenario

Event = dict[str, Any]


def written(trace: Trace, folder: Path) -> Event:
    trace.write(folder / "trace.json")
    content: Event = json.loads((folder / "trace.json").read_text(), parse_float=Fraction)
    return content


def nanoseconds(event: Event) -> tuple[int, int]:
    """Give beginning and end of a span; both are whole nanoseconds."""
    begin, end = 1000 * event["ts"], 1000 * (event["ts"] + event.get("dur", 0))
    assert begin == int(begin)
    assert end == int(end)
    return int(begin), int(end)


def assert_follows_the_rules(events: list[Event]) -> None:
    """Check what Chrome's and Perfetto's importers want.

    Every lane has a name, a thread's number belongs to one process, spans of a lane do not overlap, and an
    arrow goes from one span to others that begin later, in the order of its events.
    """
    processes = {event["pid"] for event in events if event["name"] == "process_name"}
    threads = {event["tid"]: event["pid"] for event in events if event["name"] == "thread_name"}
    lanes = defaultdict(list)
    for event in events:
        assert event["ph"] in "MXstf"
        assert event["pid"] in processes
        assert event["pid"] > 0
        if event["ph"] != "M":
            assert threads[event["tid"]] == event["pid"]
        if event["ph"] == "X":
            begin, end = nanoseconds(event)
            assert 0 <= begin < end
            lanes[event["tid"]].append((begin, end))
    for spans in lanes.values():
        spans.sort()
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
    arrows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            arrows[event["id"]].append(event)
            begin, _ = nanoseconds(event)
            assert any(from_ns <= begin < to_ns for from_ns, to_ns in lanes[event["tid"]])
    for arrow in arrows.values():
        assert [event["ph"] for event in arrow] == ["s", *"t" * (len(arrow) - 2), "f"]
        assert [event["ts"] for event in arrow] == sorted(event["ts"] for event in arrow)


SPANS = st.lists(
    st.tuples(
        st.integers(SERVER, SERVER + 2),
        st.sampled_from(["compute", "uplink", "downlink", "queue", "tail"]),
        st.floats(0, 100) | st.sampled_from([0.0, 1.0, 0.1 + 0.2]),
        st.floats(0, 5) | st.sampled_from([0.0, 1e-10, 1.0]),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(SPANS, st.sampled_from([1, 2, 250]))
def test_any_spans_make_a_file_that_follows_the_rules(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, str, float, float, int]], times: int
) -> None:
    trace = Trace(["c0", "c1"], ["raspberry-pi-4, lte", ""])
    for who, name, from_s, length_s, step in sorted(spans[: 500 // times] * times, key=lambda span: span[2]):
        trace.span(who, name, from_s, from_s + length_s, round=1, step=step)
    content = written(trace, tmp_path_factory.mktemp("trace"))
    assert_follows_the_rules(content["traceEvents"])
    assert content["otherData"]["spans"] == sum(event["ph"] == "X" for event in content["traceEvents"])


@given(SPANS, st.integers(1, 30), st.randoms())
def test_the_same_spans_make_the_same_file_in_whatever_order_they_are_told(
    tmp_path_factory: pytest.TempPathFactory,
    spans: list[tuple[int, str, float, float, int]],
    most: int,
    chance: random.Random,
) -> None:
    def told(spans: list[tuple[int, str, float, float, int]]) -> Event:
        trace = Trace(["c0", "c1"], max_spans=most, spare=3)
        for who, name, from_s, length_s, step in spans:
            trace.span(who, name, from_s, from_s + length_s, round=1, step=step)
        return written(trace, tmp_path_factory.mktemp("trace"))

    in_order = told(spans)
    chance.shuffle(spans)
    assert told(spans) == in_order
    extent = in_order["otherData"]
    assert extent["spans"] <= most
    times_ns = [
        (round(1e9 * from_s), round(1e9 * (from_s + length_s))) for _, _, from_s, length_s, _ in spans
    ]
    first_ns = sorted(begin for begin, end in times_ns if begin < end)[:most]
    kept = [event for event in in_order["traceEvents"] if event["ph"] == "X"]
    assert sorted(nanoseconds(event)[0] for event in kept) == first_ns


DEVICE = "{forward_s: 0.3, backward_s: 0.4, encode_s: 0.1, decode_s: 0.1}"


@pytest.mark.parametrize(
    "policy",
    [
        "{policy: wait_all}",
        "{policy: deadline, deadline_s: 2, minimum: 1}",
        "{policy: buffered, buffer: 2}",
    ],
    ids=lambda policy: policy.split()[1].strip("},"),
)
def test_a_run_under_each_policy_follows_the_rules(tmp_path: Path, policy: str) -> None:
    scenario = small_scenario(
        tmp_path,
        "training.rounds=4",
        "training.cohort=3",
        f"stragglers={policy}",
        f"fleet=[{{count: 4, device: {DEVICE}, link: 3g, slowdown: {{distribution: pareto, shape: 1}}}}]",
        "network.server={tail_batch_s: 0.2, link: lte}",
    )
    simulate(scenario, tmp_path / "run", timing_only=True)
    events = json.loads((tmp_path / "run/trace.json").read_text(), parse_float=Fraction)["traceEvents"]
    assert_follows_the_rules(events)
    assert {event["ph"] for event in events} == set("MXstf")
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert "c0 (own device, 3g)" in names


def test_whole_nanoseconds_and_no_rounding_between_a_span_and_the_next(tmp_path: Path) -> None:
    trace = Trace(["c0"])
    trace.span(SERVER + 1, "compute", 1.0, 1.25, round=3)
    trace.span(SERVER + 1, "encode", 1.25, 1.2500000016)
    first, second = (event for event in written(trace, tmp_path)["traceEvents"] if event["ph"] == "X")
    assert (first["ts"], first["dur"], first["args"]) == (1_000_000, 250_000, {"round": 3})
    assert (second["tid"], second["ts"], second["dur"]) == (first["tid"], 1_250_000, Fraction("0.002"))


def test_ways_up_and_down_have_lanes_of_their_own_and_what_overlaps_a_further_one(tmp_path: Path) -> None:
    trace = Trace(["c0"])
    for name, from_s, to_s in (("uplink", 0, 2), ("uplink", 1, 3), ("downlink", 1, 2), ("uplink", 2, 4)):
        trace.span(SERVER + 1, name, from_s, to_s)
    events = written(trace, tmp_path)["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans = [(event["ts"], names[event["tid"]]) for event in events if event["ph"] == "X"]
    assert sorted(spans) == [(0, "up"), (1e6, "down"), (1e6, "up, 2"), (2e6, "up")]


def test_an_arrow_leads_from_activations_through_the_tail_to_their_gradient(tmp_path: Path) -> None:
    trace = Trace(["c0"])
    for name, from_s in (("uplink", 0), ("tail", 1), ("downlink", 2)):
        trace.span(SERVER + 1, name, from_s, from_s + 1, round=2, step=0)
    trace.span(SERVER + 1, "uplink", 3, 4, round=2, step=1)  # is not answered
    trace.span(SERVER + 1, "uplink", 5, 6, round=2)  # the head's update
    arrows = [event for event in written(trace, tmp_path)["traceEvents"] if event["ph"] in "stf"]
    assert [(event["ph"], event["ts"], event["id"]) for event in arrows] == [
        ("s", 0, 1), ("t", 1e6, 1), ("f", 2e6, 1),
    ]  # fmt: skip


def test_what_takes_no_time_is_not_shown(tmp_path: Path) -> None:
    trace = Trace([])
    trace.span(SERVER, "tail", 1.0, 1.0)
    assert written(trace, tmp_path)["otherData"]["spans"] == 0


def test_each_client_is_shown_of_a_fleet_of_hundreds_and_some_of_a_larger_one(tmp_path: Path) -> None:
    hundreds, thousands = [[f"c{number}" for number in range(size)] for size in (MAX_WHOLE_FLEET, 2_000)]
    assert written(Trace(hundreds), tmp_path)["otherData"]["clients_traced"] == MAX_WHOLE_FLEET
    assert written(Trace(thousands), tmp_path)["otherData"]["clients_traced"] == MAX_CLIENTS


def test_large_fleets_and_long_runs_are_cut_off_and_the_file_says_so(tmp_path: Path) -> None:
    trace = Trace(["c0", "c1", "c2"], max_clients=2, max_spans=3)
    assert [trace.lane(client) for client in ("c0", "c1", "c2")] == [SERVER + 1, SERVER + 2, None]
    for number in range(5):
        trace.span(SERVER, "tail", number, number + 0.5)
    assert written(trace, tmp_path)["otherData"] == {
        "clients": 3, "clients_traced": 2, "spans": 3, "spans_left_out_at_the_end": 2,
    }  # fmt: skip
