"""Answers that are computed ahead: the same run as in the general way, to the byte."""

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scenarios.loading.load import load_scenario
from sim.simulation import run
from sim.simulation.ahead import ahead, greeting, telling_all
from sim.simulation.ahead.device import Device
from sim.simulation.ahead.rest import Rest
from sim.simulation.ahead.talk import Talk
from sim.simulation.run import simulate

LINKS = {
    "lte": "lte",
    "3g": "3g",
    "uniform": "{uplink_kbps: 200, downlink_kbps: 900, latency_ms: 20, jitter_ms: 5, jitter: uniform}",
    "narrow": "{uplink_kbps: 4000, downlink_kbps: 500, latency_ms: 20, jitter_ms: 5, jitter: lognormal}",
    "far": "{latency_ms: 700, jitter_ms: 100, jitter: lognormal}",
}
OTHER_LINKS = {
    "even": "{uplink_kbps: 500, latency_ms: 20}",
    "lossy": "{uplink_kbps: 900, latency_ms: 30, jitter_ms: 5, jitter: lognormal, loss: 0.02}",
    "instant": "none",
    "lora": "lora-backhaul",
}
POLICIES = {
    "all": "{policy: wait_all}",
    "deadline": "{policy: deadline, deadline_s: 3, minimum: 2}",
    "over": "{policy: over_select, extra: 4}",
    "buffered": "{policy: buffered, buffer: 4, max_staleness: 2}",
    "impatient": "{policy: wait_all, retry_s: 1}",
}
SLOW = (
    "",
    ", slowdown: {distribution: lognormal, sigma: 1.0, drawn: per_client}",
    ", slowdown: {distribution: lognormal, sigma: 1.0}",
)
SHORT = ("{pattern: always}", "{pattern: on_off, mean_on_s: 4, mean_off_s: 1}")
GENERAL = 10**9
CODECS = ("{codec: pq, subvectors: 144, groups: 1, centroids: 4}", "{codec: float32}")


@pytest.fixture(autouse=True)
def _no_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the trial of the task before a run: it trains, and takes ten times as long as the run."""
    monkeypatch.setattr(run, "rehearse", lambda _scenario, _task: None)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count answers that were computed ahead, and devices that were woken by what they did then."""
    counts = Counter[str]()
    talk_to, go_on = ahead.Ahead._talk, ahead.Ahead._go_on

    def count_answers(self: ahead.Ahead, asked: list[Any], *args: Any) -> bool:
        talks = talk_to(self, asked, *args)
        counts["computed"] += len(asked) * talks
        return talks

    def count_woken(self: ahead.Ahead, device: Device, talk: Talk) -> None:
        place = talk.places[device.number]
        counts["sends" if talk.sent[place] else "computes" if talk.heard[place] else "waits"] += 1
        go_on(self, device, talk)

    monkeypatch.setattr(ahead.Ahead, "_talk", count_answers)
    monkeypatch.setattr(ahead.Ahead, "_go_on", count_woken)
    return counts


def left_by(folder: Path, least: int, *chosen: str) -> list[object]:
    """Give what a run leaves that may not depend on how it was computed.

    Args:
        folder: for the runs.
        least: so many devices are computed ahead; with GENERAL none are, and none greet ahead.
        chosen: settings.
    """
    scenario = load_scenario("quickstart", chosen)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ahead, "LEAST", least)
        if least == GENERAL:
            patch.setattr(telling_all, "can_greet", lambda *_: False)
        summary = simulate(scenario, folder / str(least), timing_only=True)
    own = ("wall_seconds", "training_seconds", "client_steps_per_second")
    told = {key: value for key, value in summary.items() if key not in own}
    files = [(folder / str(least) / name).read_bytes() for name in ("metrics.parquet", "trace.json")]
    return [json.dumps(told), *files]


@st.composite
def runs(draw: st.DrawFn) -> list[str]:
    def group(links: dict[str, str]) -> str:
        link, slow = links[draw(st.sampled_from(sorted(links)))], draw(st.sampled_from(SLOW))
        there = draw(st.sampled_from(SHORT))
        device = draw(st.sampled_from(("raspberry-pi-4", "raspberry-pi-zero-2w")))
        return f"{{count: 9, device: {device}, link: {link}, availability: {there}{slow}}}"

    method = draw(st.sampled_from(("split", "split", "fedavg")))
    every = draw(st.sampled_from((1, 2, "never"))) if method == "split" else 1
    steps = draw(st.integers(1, 3))
    return [
        f"training={{rounds: 4, cohort: 7, method: {method}, local_steps: {steps}}}",
        f"training.gradients_every={every}",
        f"stragglers={POLICIES[draw(st.sampled_from(sorted(POLICIES)))]}",
        f"fleet=[{group(LINKS)}, {group(LINKS)}, {group(LINKS | OTHER_LINKS)}]",
        f"network.server={{tail_batch_s: {draw(st.sampled_from((0, 0.01)))}, tail_sample_s: 0.0005}}",
        f"flows.activations_up={draw(st.sampled_from(CODECS))}",
        f"seed={draw(st.integers(0, 99))}",
    ]


@given(chosen=runs(), least=st.integers(1, 4))
@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_run_leaves_the_same_bytes_whatever_is_computed_ahead(chosen: list[str], least: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        general = left_by(Path(folder), GENERAL, *chosen)
        assert left_by(Path(folder), least, *chosen) == general


@pytest.mark.parametrize(
    ("policy", "link", "does"),
    [
        ("all", "lte", ""),
        ("over", "uniform", "sends"),
        ("deadline", "lte", "computes"),
        ("deadline", "narrow", "waits"),
        ("impatient", "far", "sends"),
    ],
)
def test_members_that_are_asked_or_released_meanwhile_are_woken(
    tmp_path: Path, answers: Counter[str], policy: str, link: str, does: str
) -> None:
    slow = "slowdown: {distribution: lognormal, sigma: 2, drawn: per_client}"
    chosen = (
        f"fleet=[{{count: 30, device: raspberry-pi-4, link: {LINKS[link]}, {slow}}}]",
        "training={rounds: 5, cohort: 12, local_steps: 3}",
        f"stragglers={POLICIES[policy]}",
        "flows.activations_up={codec: float32}",
        "network.server={tail_batch_s: 0.3, tail_sample_s: 0.001}",
    )
    general = left_by(tmp_path, GENERAL, *chosen)
    assert not +answers
    assert left_by(tmp_path, 1, *chosen) == general
    assert answers.pop("computed") > 20
    assert answers[does] > 0 if does else not +answers


def test_what_is_said_before_a_puback_has_come_waits_for_the_brokers_window(
    tmp_path: Path, answers: Counter[str]
) -> None:
    chosen = (
        f"fleet=[{{count: 30, device: raspberry-pi-4, link: {LINKS['far']}}}]",
        "training={rounds: 4, cohort: 12, local_steps: 3}",
        f"flows={{activations_up: {CODECS[0]}, gradient_down: {{codec: float32}}}}",
        "network={broker: {in_flight: 1}, server: {tail_batch_s: 0, tail_sample_s: 0}}",
    )
    general = left_by(tmp_path, GENERAL, *chosen)
    assert left_by(tmp_path, 1, *chosen) == general
    assert answers["computed"] > 20


def test_devices_at_rest_greet_again_when_the_fleet_is_not_complete_in_time(tmp_path: Path) -> None:
    absent = "availability: {pattern: on_off, mean_on_s: 0.001, mean_off_s: 1e9}"
    chosen = (
        f"fleet=[{{count: 25, device: raspberry-pi-4, link: lte}}, {{count: 3, link: lte, {absent}}}]",
        "training={rounds: 3, cohort: 12}",
    )
    general = left_by(tmp_path, GENERAL, *chosen)
    assert left_by(tmp_path, 1, *chosen) == general
    told = json.loads(str(general[0]))
    assert told["virtual_seconds"] > 30
    assert told["rounds"] == 3


def test_those_who_answered_in_different_rounds_are_told_together(
    tmp_path: Path, answers: Counter[str]
) -> None:
    fleet = "fleet=[{count: 60, device: raspberry-pi-4, link: lte}]"
    left_by(tmp_path, 12, fleet, "training={rounds: 8, cohort: 20}", "network.server={tail_batch_s: 2}")
    first_round, the_first_gradients = 20, 8
    assert answers["computed"] >= (8 - 1) * 2 * (20 - the_first_gradients) - first_round


def test_few_members_go_the_general_way(tmp_path: Path, answers: Counter[str]) -> None:
    fleet = "fleet=[{count: 30, link: lte}]"
    left_by(tmp_path, 12, fleet, "training={rounds: 3, cohort: 9}")
    assert answers["computed"] == 0


def test_all_who_may_be_computed_ahead_greet_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    greeted = Counter[str]()

    def greet(rest: Rest, numbers: range, *args: Any) -> None:
        greeted.update(rest.names[number] for number in numbers)
        greeting.greet(rest, numbers, *args)

    monkeypatch.setattr(telling_all, "greet", greet)
    fleet = "fleet=[{count: 5, link: lte}, {count: 5, link: none}, {count: 5, link: nb-iot}]"
    summary = simulate(
        load_scenario("quickstart", [fleet, "training={rounds: 1, cohort: 9}"]), tmp_path, timing_only=True
    )
    assert greeted == Counter(f"c{number:02}" for number in range(5))
    assert summary["rounds"] == 1
