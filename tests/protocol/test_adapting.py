"""Codecs that follow links: what is learned from answers, and which rung that gives."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import Float32, Int2, Int4, Int8, codec_to_wire, gradient_bytes
from broker.machine.actions import CancelTimer, ComputeDone, Publish, StartTimer, TimerFired
from broker.transports.memory import MemoryBroker
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate, Message
from scenarios.errors import ScenarioError
from scenarios.heads.parts import HeadForm
from scenarios.schema.flows import Codecs
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from server_node.protocol.adapting.ladder import MARGIN, Ladder, choose, volume_of
from server_node.protocol.adapting.measured import MOST, MeasuredLink, Volume
from server_node.protocol.exchange import Exchange
from server_node.protocol.round_trip import RoundTrip
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.jobs import CloseRound, TailStep, TailStepped
from server_node.vocabulary.ledger import CONTROL, Ledger
from server_node.vocabulary.plan import Plan, RoundPolicy, make_plan
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run as run_live
from tests.protocol.test_server_core import CODECS, HEAD, PLAN, Server, activations
from tests.simulation.test_going_on import After, comes_out_the_same, interrupted

# The rule.

times = st.floats(0.001, 1000.0)
fleets = st.integers(2, 4).flatmap(
    lambda rungs: st.lists(
        st.lists(times, min_size=rungs, max_size=rungs).map(lambda each: sorted(each, reverse=True)),
        min_size=1,
        max_size=8,
    )
)
deadlines = st.none() | times


@settings(max_examples=60, deadline=None)
@given(fleets, deadlines)
def test_a_client_gets_the_finest_rung_that_fits_or_its_quickest(
    seconds: list[list[float]], deadline_s: float | None
) -> None:
    time_s = deadline_s or max(min(rungs) for rungs in seconds)
    for rungs, rung in zip(seconds, choose(seconds, deadline_s), strict=True):
        fits = [s <= MARGIN * time_s for s in rungs]
        assert rungs[rung] == min(rungs) if not any(fits) else rung == fits.index(True)


@settings(max_examples=60, deadline=None)
@given(fleets, deadlines, st.floats(0.01, 1.0), st.data())
def test_a_faster_link_never_gives_a_coarser_rung(
    seconds: list[list[float]], deadline_s: float | None, times_s: float, data: st.DataObject
) -> None:
    if deadline_s is None:
        seconds = [*seconds, *[[1e9] * len(seconds[0])] * len(seconds)]  # others stay the slowest
    which = data.draw(st.integers(0, len(seconds) - 1))
    faster = [[times_s * s for s in rungs] if n == which else rungs for n, rungs in enumerate(seconds)]
    before, after = choose(seconds, deadline_s), choose(faster, deadline_s)
    assert after[which] <= before[which]


@settings(max_examples=60, deadline=None)
@given(fleets, times, times)
def test_a_later_deadline_never_gives_a_coarser_rung(
    seconds: list[list[float]], one_s: float, other_s: float
) -> None:
    sooner, later = sorted((one_s, other_s))
    pairs = zip(choose(seconds, sooner), choose(seconds, later), strict=True)
    assert all(with_more_time <= with_less for with_less, with_more_time in pairs)


@settings(max_examples=60, deadline=None)
@given(fleets, st.integers(1, 8))
def test_where_some_answers_are_enough_they_are_there_no_later_than_with_the_quickest_rungs(
    seconds: list[list[float]], enough: int
) -> None:
    enough = min(enough, len(seconds))
    chosen = choose(seconds, None, enough)
    taken = sorted(rungs[rung] for rungs, rung in zip(seconds, chosen, strict=True))
    quickest = sorted(min(rungs) for rungs in seconds)
    assert taken[enough - 1] <= quickest[enough - 1]
    assert all(
        rungs[rung] == min(rungs) or rungs[rung] <= MARGIN * quickest[enough - 1]
        for rungs, rung in zip(seconds, chosen, strict=True)
    )


@settings(max_examples=60, deadline=None)
@given(fleets)
def test_without_a_deadline_nobody_takes_longer_than_the_quickest_rungs_do(
    seconds: list[list[float]],
) -> None:
    taken = max(rungs[rung] for rungs, rung in zip(seconds, choose(seconds), strict=True))
    assert taken <= max(min(rungs) for rungs in seconds)


# What is measured.


def measured(*answers: tuple[float, int, int]) -> MeasuredLink:
    link = MeasuredLink()
    for answer in answers:
        link.observe(*answer)
    return link


sizes = st.integers(1_000, 1_000_000)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1e5), sizes, sizes), max_size=30))
def test_whatever_comes_all_parts_stay_above_zero_and_finite(answers: list[tuple[float, int, int]]) -> None:
    link = measured(*answers)
    assert np.isfinite(link.mean).all()
    assert (link.mean > 0).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0.3, 100.0), st.integers(1_000, 300_000), st.integers(1_000, 300_000))
def test_a_steady_link_becomes_known(took_s: float, up_bytes: int, down_bytes: int) -> None:
    link = measured(*[(took_s, up_bytes, down_bytes)] * 120)
    assert link.seconds(Volume(1, up_bytes, down_bytes)) == pytest.approx(took_s, rel=0.1)


def test_a_link_that_was_long_too_fast_to_measure_is_known_when_it_is_slow() -> None:
    link = measured(*[(0.2, 20_000, 20_000)] * 500)
    for _ in range(6):
        link.observe(8.0, 20_000, 20_000)
    assert link.seconds(Volume(1, 20_000, 20_000)) > 4.0
    assert link.mean[0] < 1.0


def test_both_directions_of_a_link_become_known_from_messages_of_several_sizes() -> None:
    kinds, up_s, down_s = (
        [(3_000, 20_000), (20_000, 90_000), (180_000, 20_000), (20_000, 180_000)],
        4e-6,
        1e-6,
    )
    link = measured(*[(0.3 + up_s * up + down_s * down, up, down) for up, down in kinds * 30])
    assert link.mean == pytest.approx([0.3, up_s, down_s], rel=0.2)


def test_one_outage_makes_a_link_a_few_times_slower_and_is_soon_forgotten() -> None:
    usual = (0.3, 20_000, 20_000)
    link = measured(*[usual] * 20)
    link.observe(600.0, 20_000, 20_000)
    expected_s = link.seconds(Volume(1, 20_000, 20_000))
    assert 0.35 < expected_s <= MOST * 0.35
    for _ in range(8):
        link.observe(*usual)
    assert link.seconds(Volume(1, 20_000, 20_000)) < 0.45


@settings(max_examples=60, deadline=None)
@given(st.floats(0.2, 0.5), st.integers(180_000, 400_000), st.floats(2.0, 4.0))
def test_a_large_message_is_known_to_be_slow_after_three_late_answers(
    fixed_s: float, up_bytes: int, deadline_s: float
) -> None:
    link = measured(*[(fixed_s + 5e-7 * up_bytes, up_bytes, 3_000)] * 60)
    for _ in range(3):
        link.observe_at_least(deadline_s, up_bytes, 3_000)
    assert link.seconds(Volume(1, up_bytes, 3_000)) > 0.7 * deadline_s
    assert link.mean[0] < 1.4 * fixed_s  # it is the link that has changed, not the device


def test_an_answer_that_is_not_waited_for_makes_a_link_slower_and_never_faster() -> None:
    link = measured(*[(1.0, 50_000, 50_000)] * 10)
    before = link.mean.copy()
    link.observe_at_least(0.5, 50_000, 50_000)
    assert (link.mean == before).all()
    link.observe_at_least(3.0, 50_000, 50_000)
    assert (link.mean > before).all()


# What a round takes.


def volume(plan: Plan) -> Volume:
    return volume_of(plan, CODECS, plan.whole_head)


def test_the_volume_of_a_round_counts_each_message_of_it() -> None:
    plan = replace(PLAN, steps=3, local_steps=3)
    head, batch, targets = 4 * 3, 4 * 2 * 4, 1
    assert volume(plan) == Volume(4, head + 3 * (batch + targets), head + 3 * batch)
    assert volume(replace(plan, head_learns=False)).down_bytes == head
    assert volume(replace(PLAN, steps=0)) == Volume(1, head, head)
    u_shape = replace(plan, steps=6, features_size=2)
    features = 4 * 2 * 2
    assert volume(u_shape) == Volume(7, head + 3 * (batch + features), head + 3 * (batch + features))


# The server.

FINE, MIDDLE, COARSE = (
    {"activations_up": codec, "gradient_down": codec} for codec in (Float32(), Int8(), Int2())
)
LADDER = FINE, MIDDLE, COARSE
CLIMBS = replace(PLAN, rounds=90, round_policy=RoundPolicy(3), cohort=3, ladder=LADDER, cut_size=20_000)
WITH_DEADLINE = replace(CLIMBS, round_policy=RoundPolicy(3, deadline_s=4.0, minimum=1))
RUNGS = {tuple(codec_to_wire(codecs["activations_up"])): rung for rung, codecs in enumerate(LADDER)}


class Adapting(Server):
    """A server whose clients answer after a tenth of a second and the time of their bytes.

    Args:
        plan: of the server.
        bytes_per_s: of a client at a time.
    """

    def __init__(self, plan: Plan, bytes_per_s: Callable[[str, float], float]) -> None:
        super().__init__(plan)
        self.bytes_per_s = bytes_per_s
        self.rungs: dict[str, int] = {}
        self.closed = 0
        self.under_way: list[tuple[float, str, Message | None]] = []
        self.seen: list[tuple[float, str, int]] = []  # of each assignment its time, client and rung
        self.begin()

    def handle(self, event: ServerEvent) -> list[ServerAction]:
        actions = super().handle(event)
        for action in actions:
            match action:
                case Publish(topic, Assignment() | Gradient() as message):
                    self.answers(topic.rpartition("/")[2], message)
                case StartTimer("deadline", delay_s):
                    self.under_way.append((self.now_s + delay_s, "", None))
                case CancelTimer("deadline"):
                    self.under_way = [each for each in self.under_way if each[1]]
                case _:
                    pass
        return actions

    def answers(self, client: str, message: Assignment | Gradient) -> None:
        """Put the answer to a message on its way."""
        where = message.server, message.round
        answer: Message
        if isinstance(message, Assignment):
            self.rungs[client] = rung = RUNGS[tuple(message.codecs[0])]
            self.seen.append((self.now_s, client, rung))
            payload = bytes(self.codecs(client).activations_up.size_bytes(2, self.plan.cut_size))
            answer = Activations(*where, 0, 1, 2, payload, bytes(1))
            size = len(payload) + len(message.head)
        else:
            answer = HeadUpdate(*where, 1, 2, 0.0, HEAD)
            size = len(message.payload) + len(HEAD)
        at_s = self.now_s + 0.1 + size / self.bytes_per_s(client, self.now_s)
        self.under_way.append((at_s, client, answer))

    def codecs(self, client: str) -> Codecs:
        return self.plan.codecs_of(client, self.rungs[client])

    def work(self) -> list[ServerAction]:
        """Do the oldest job; gradients have the size that the client's rung gives them."""
        job = self.jobs[0]
        if not isinstance(job, TailStep):
            self.closed += isinstance(job, CloseRound)
            return super().work()
        self.jobs.pop(0)
        assert {client: job.rungs.get(client, 0) for client in job.waited} == {
            client: self.core.members[client].rung for client in job.waited
        }
        n, d = 2, self.plan.cut_size
        sizes = {
            client: gradient_bytes(
                self.codecs(client).gradient_down, self.codecs(client).activations_up, n, d
            )
            for client in job.waited
        }
        gradients = {client: (bytes(size), 0.0) for client, size in sizes.items()}
        return self.handle(ComputeDone(job, TailStepped({**gradients}, 1.0, 2 * len(gradients))))

    def play(self, rounds: int) -> dict[str, int]:
        """Do so many rounds; gives the rung that each client had last."""
        until = self.closed + rounds
        while self.closed < until:
            if self.jobs:
                self.work()
                continue
            self.under_way.sort(key=lambda each: each[0])
            at_s, client, message = self.under_way.pop(0)
            self.now_s = max(self.now_s, at_s)
            if message is None:
                self.handle(TimerFired("deadline"))
            else:
                self.hear(client, message)
        assert self.ledger.rejected == {}
        return dict(self.rungs)


def constant(**bytes_per_s: float) -> Callable[[str, float], float]:
    return lambda client, _now_s: bytes_per_s[client]


def test_of_whom_nothing_is_known_the_coarsest_is_asked() -> None:
    for plan in (CLIMBS, WITH_DEADLINE):
        assert set(Adapting(plan, constant(a=1e6, b=1e6, c=1e6)).rungs.values()) == {2}


def test_with_a_deadline_each_gets_the_finest_that_fits_into_it() -> None:
    server = Adapting(WITH_DEADLINE, constant(a=1e6, b=40_000, c=9_000))
    assert server.play(30) == {"a": 0, "b": 1, "c": 2}  # 320 kB in 0.4 s; 80 kB in 2.1 s; 20 kB in 2.4 s


def test_without_a_deadline_a_fast_client_gets_finer_codecs_beside_slow_ones() -> None:
    server = Adapting(CLIMBS, constant(a=4e6, b=20_000, c=10_000))
    assert server.play(30) == {"a": 0, "b": 2, "c": 2}


@pytest.mark.parametrize("policy", [{}, {"enough": 2}, {"enough": 2, "max_staleness": 3}])
def test_where_all_are_alike_all_stay_with_the_coarsest(policy: dict[str, int]) -> None:
    plan = replace(CLIMBS, round_policy=RoundPolicy(3, **policy))
    assert set(Adapting(plan, constant(a=50_000, b=50_000, c=50_000)).play(20).values()) == {2}


def test_a_client_gets_coarser_codecs_while_its_link_is_slow_and_finer_ones_after() -> None:
    slow_from_s, slow_to_s = 10.0, 60.0

    def slow(now_s: float) -> bool:
        return slow_from_s <= now_s < slow_to_s

    server = Adapting(WITH_DEADLINE, lambda client, now_s: 10_000 if client == "a" and slow(now_s) else 1e6)
    server.play(89)
    rungs = [(now_s, rung) for now_s, client, rung in server.seen if client == "a"]
    before = [rung for now_s, rung in rungs if now_s < slow_from_s]
    within = [rung for now_s, rung in rungs if slow(now_s)]
    after = [rung for now_s, rung in rungs if now_s >= slow_to_s]
    assert before[-1] == 0
    assert set(within[6:]) == {2}
    assert set(after[3:]) == {0}


def test_a_client_that_is_dropped_at_each_deadline_ends_with_the_coarsest() -> None:
    server = Adapting(WITH_DEADLINE, lambda _client, now_s: 1e6 if now_s < 30 else 9_000)
    server.play(80)
    assert set(server.rungs.values()) == {2}


def test_the_same_times_give_the_same_rungs() -> None:
    one, other = (Adapting(WITH_DEADLINE, constant(a=1e6, b=40_000, c=10_000)) for _ in range(2))
    one.play(20)
    other.play(20)
    assert one.seen == other.seen


def test_a_message_that_was_sent_again_is_no_measure() -> None:
    ladder, assignment = Ladder(CLIMBS, Ledger()), Assignment(1, 1, 1, 1, 0.1, ([], [], [], []), b"head")
    member = Exchange(assignment, RoundTrip(), 600.0, 0.0, CLIMBS.codecs, CLIMBS.whole_head)
    before = ladder.seconds("a", 0)
    member.resends = 1
    ladder.answered("a", member, activations(), 100.0)
    ladder.too_late("a", member, 100.0)
    assert ladder.seconds("a", 0) == before
    member.resends = 0
    ladder.answered("a", member, activations(), 100.0)
    assert ladder.seconds("a", 0) > before


def test_answers_are_counted_by_rung_and_late_ones_apart() -> None:
    server = Adapting(WITH_DEADLINE, constant(a=1e6, b=40_000, c=100))
    server.play(20)
    given = Counter(rung for _, _, rung in server.seen)
    under_way = Counter(member.rung for member in server.core.members.values())
    counted = {number: rung.answered + rung.late for number, rung in enumerate(server.ledger.rungs)}
    assert counted == {number: given[number] - under_way[number] for number in range(3)}
    assert all(rung.answered for rung in server.ledger.rungs)
    assert server.ledger.rungs[2].late > server.ledger.rungs[1].late  # c is hardly ever in time


def test_bytes_are_counted_by_rung(tmp_path: Path) -> None:
    simulate(adapting(tmp_path), tmp_path / "run")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    assert sum(rung["answered"] for rung in summary["rungs"]) == sum(row["clients"] for row in rows)
    tensors = sum(flow["payload"] for name, flow in summary["bytes"].items() if name != CONTROL)
    targets = 3 * summary["client_steps"]  # a batch has 10 samples of 4 classes
    assert sum(rung["payload"] for rung in summary["rungs"]) == tensors + targets
    assert [rows[-1][f"rung_{n}_payload_bytes"] for n in range(3)] == [r["payload"] for r in summary["rungs"]]


def test_without_a_ladder_nothing_is_counted_by_rung(tmp_path: Path) -> None:
    summary = simulate(small_scenario(tmp_path, "training.rounds=1"), tmp_path / "run")
    assert "rungs" not in summary


def test_a_late_answer_of_an_earlier_round_is_read_under_its_own_rung() -> None:
    plan = replace(WITH_DEADLINE, round_policy=RoundPolicy(3, enough=2, max_staleness=5))
    server = Adapting(plan, constant(a=1e6, b=30_000, c=2_000))
    server.play(40)
    assert {rung for _, _, rung in server.seen} >= {0, 2}
    assert server.ledger.rejected == {}


def test_with_fedavg_scores_travel_as_they_are_whatever_the_rung(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path,
        "training.method=fedavg",
        "flows.adaptive={ladder: [{}, {head_update_up: {codec: int4}, activations_up: {codec: int8}}]}",
    )
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(10))
    assert plan.codecs_of("c0", 1).activations_up == scenario.flows.activations_up
    assert plan.codecs_of("c0", 1).head_update_up == Int4()


# Whole runs.

RUNGS_OF_RUN = (
    "flows.adaptive={ladder: [{activations_up: {codec: float32}, gradient_down: {codec: float32}}, "
    "{activations_up: {codec: int8}, gradient_down: {codec: int8}, head_update_up: {codec: int8}}, "
    "{activations_up: {codec: pq, subvectors: 2, groups: 1, centroids: 2}, "
    "gradient_down: {codec: codeword_mean, bits: 8}, head_update_up: {codec: int4}}]}"
)
POLICIES = (
    "{policy: wait_all}",
    "{policy: deadline, deadline_s: 0.4, minimum: 1}",
    "{policy: over_select, extra: 1}",
    "{policy: buffered, buffer: 2, max_staleness: 3}",
)


def adapting(folder: Path, *settings: str) -> Scenario:
    fleet = "fleet=[{count: 2, link: lte}, {count: 2, link: nb-iot}, {count: 2}]"
    return small_scenario(folder, RUNGS_OF_RUN, fleet, "training.rounds=8", *settings)


@pytest.mark.parametrize("policy", POLICIES)
def test_timed_and_trained_runs_choose_alike(tmp_path: Path, policy: str) -> None:
    scenario = adapting(tmp_path, f"stragglers={policy}")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    assert learned["virtual_seconds"] == timed["virtual_seconds"]
    assert learned["bytes"] == timed["bytes"]
    assert learned["messages"]["rejected"] == 0


@pytest.mark.parametrize("policy", [POLICIES[1], POLICIES[3]])
def test_a_run_that_goes_on_has_the_same_rungs_as_one_that_was_not_interrupted(
    tmp_path: Path, policy: str
) -> None:
    scenario = adapting(tmp_path, f"stragglers={policy}")
    counted = After(math.inf)
    simulate(scenario, tmp_path / "whole", threads=1, stop=counted)
    for share in (0.5, 0.8):
        interrupted(scenario, tmp_path / "parts", After(share * counted.seen, kills=True))
    simulate(scenario, tmp_path / "parts", threads=1)
    assert comes_out_the_same(tmp_path / "whole", tmp_path / "parts")


async def test_an_adaptive_run_learns_over_a_real_transport(tmp_path: Path) -> None:
    live = await run_live(adapting(tmp_path), MemoryBroker().transport, tmp_path / "live")
    assert live["messages"]["rejected"] == 0
    assert final_score(live) > 0.6


@pytest.mark.parametrize(
    ("method", "ladder"),
    [
        ("fedavg", "[{}, {head_update_up: {codec: int4}}]"),
        ("u_shape", "[{}, {features_down: {codec: int8}, feature_gradient_up: {codec: int4}}]"),
    ],
)
def test_every_method_climbs(tmp_path: Path, method: str, ladder: str) -> None:
    module = f"task.module={Path(__file__).parents[1] / 'u_task.py'}"
    scenario = adapting(
        tmp_path,
        *((module,) if method == "u_shape" else ()),
        f"training.method={method}",
        f"flows.adaptive={{ladder: {ladder}}}",
        "training.rounds=4",
    )
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    assert learned["bytes"] == timed["bytes"]
    assert learned["messages"]["rejected"] == 0


# What the schema says.


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("{ladder: [{}]}", "flows.adaptive.ladder"),
        ("{ladder: [{activations_up: {codec: int4}}, {activations_up: {codec: int8}}]}", "rung before"),
        ("{ladder: [{}, {}]}", "order the ladder from the finest to the coarsest"),
        (
            "{ladder: [{}, {activations_up: {codec: pq, subvectors: 5, groups: 1, centroids: 2}}]}",
            "flows.adaptive.ladder.1.activations_up: subvectors must divide the 16 values",
        ),
        (
            "{ladder: [{}, {activations_up: {codec: int4}, gradient_down: {codec: codeword_mean}}]}",
            "flows.adaptive.ladder.1.gradient_down: codeword_mean, for gradient_down, needs",
        ),
        ("{ladder: [{}, {head_state_down: {codec: int8}}]}", "head_state_down: unknown key"),
        ("{ladder: [{}, {activations_up: {codec: int5}}]}", "unknown codec 'int5'"),
    ],
)
def test_mistakes_in_ladders_are_told(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, "flows.activations_up={codec: float32}", f"flows.adaptive={setting}")
    assert problem in str(caught.value)


def test_by_link_and_adaptive_may_share_the_flows_but_none_of_them(tmp_path: Path) -> None:
    by_link = "flows.by_link=[{uplink_below_kbps: 500, head_update_up: {codec: int8}}]"
    ladder = "flows.adaptive={ladder: [{activations_up: {codec: float32}}, {activations_up: {codec: int4}}]}"
    scenario = small_scenario(tmp_path, by_link, ladder, "fleet=[{count: 2}, {count: 2, link: 2g}]")
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(10))
    coarse = plan.codecs_of("c3", 1)
    assert (coarse.activations_up, coarse.head_update_up) == (Int4(), Int8())
    assert plan.codecs_of("c2", 1) is coarse
    both = "flows.adaptive={ladder: [{}, {head_update_up: {codec: int4}}]}"
    with pytest.raises(ScenarioError, match="head_update_up is in by_link and in adaptive"):
        small_scenario(tmp_path, by_link, both)
