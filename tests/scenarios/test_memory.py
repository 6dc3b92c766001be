"""The memory that a device needs: added up before a run, held against what it has."""

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from broker.cli.commands import app
from edge_client.memory import too_small
from scenarios.errors import ScenarioError
from scenarios.loading.grid import load_grid
from scenarios.loading.grid_trial import try_all
from scenarios.loading.rehearsal import rehearse
from scenarios.loading.trial.memory import MIB, PROCESS_BYTES, SYSTEM_BYTES, Need, need_of, peak_of
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from tests.helpers import small_file, small_scenario


def need(scenario: Scenario, head: nn.Module, rows: int = 5) -> Need:
    inputs = torch.rand(rows, 8)
    return need_of(scenario, task_of(scenario), head, inputs, own_bytes=0)


def linear(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 16))


def test_a_device_with_too_little_memory_is_refused_with_the_sum(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as refused:
        rehearse(small_scenario(tmp_path, "fleet.0.device={ram_mib: 256}"))
    words = str(refused.value)
    assert words.startswith("fleet.0.device: this device has 256 MiB of memory; the system takes about 150")
    assert "one client needs about 280 MiB (280 for the process with torch, 0.0 for data, " in words
    assert "\n" not in words


@given(ram_mib=st.integers(400, 460))
@settings(max_examples=10, deadline=None)
def test_refused_is_whatever_does_not_fit(tmp_path_factory: pytest.TempPathFactory, ram_mib: int) -> None:
    scenario = small_scenario(tmp_path_factory.mktemp("s"), f"fleet.0.device={{ram_mib: {ram_mib}}}")
    try:
        found = rehearse(scenario)
    except ScenarioError:
        assert ram_mib * MIB < PROCESS_BYTES + SYSTEM_BYTES + MIB
    else:
        assert found is not None
        assert sum(found) + SYSTEM_BYTES <= ram_mib * MIB


def test_a_device_whose_memory_is_not_given_is_not_refused(tmp_path: Path) -> None:
    assert rehearse(small_scenario(tmp_path)) is not None


def test_a_point_of_a_grid_is_refused_for_its_memory_alone(tmp_path: Path) -> None:
    grid = ["fleet.0.device.ram_mib=1024,300"]
    points = load_grid(small_file(tmp_path), ("fleet.0.device={batch_size: 20}",), grid)
    [(name, error)] = try_all((point.title, point.scenario) for point in points)
    assert name == "at fleet.0.device.ram_mib=300"
    assert " has 300 MiB" in str(error)


def test_an_early_cut_needs_less(tmp_path: Path) -> None:
    def fleet(*groups: str) -> Scenario:
        return small_scenario(tmp_path, "flows={}", "task.batch_size=200000", f"fleet=[{', '.join(groups)}]")

    early, whole = (rehearse(fleet(f"{{count: 4{cut}}}")) for cut in (", cut: '0'", ""))
    assert early is not None
    assert whole is not None
    assert sum(early) < sum(whole)
    device = f"device: {{ram_mib: {(sum(early) + sum(whole)) // (2 * MIB) + SYSTEM_BYTES // MIB}}}"
    with pytest.raises(ScenarioError, match=r"^fleet\.1\.device: this device has "):
        rehearse(fleet(f"{{count: 2, cut: '0', {device}}}", f"{{count: 2, {device}}}"))


def test_validate_prints_the_sum(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["scenarios", "validate", str(small_file(tmp_path))])
    assert result.exit_code == 0
    assert "small: a device with one client needs about 280 MiB (280 for" in result.output


@given(batch=st.integers(1, 200_000), rows=st.integers(2, 32))
@settings(max_examples=20, deadline=None)
def test_a_batch_needs_what_its_size_says_however_few_rows_are_tried(
    tmp_path_factory: pytest.TempPathFactory, batch: int, rows: int
) -> None:
    folder = tmp_path_factory.mktemp("s")
    scenario = small_scenario(folder, f"task.batch_size={batch}", "flows.activations_up={codec: float32}")
    found = need(scenario, linear(1024), rows).batches
    kept = 4 * batch * (8 + 1024)  # inputs, and what the ReLU gives; copies of it are assumed on top
    assert kept <= found <= 6 * kept + 10 * MIB


@pytest.mark.parametrize(
    ("setting", "more"),
    [
        ("training.head_optimizer={kind: sgd, momentum: 0.9}", 1),
        ("training.head_optimizer={kind: adam}", 2),
        ("flows.error_feedback=true", 1),
        ("flows.head_since=last", 2),
    ],
)
def test_what_is_remembered_of_each_parameter_counts(tmp_path: Path, setting: str, more: int) -> None:
    head = linear(2000)
    parameters = sum(each.numel() for each in head.parameters())
    plain, changed = (need(small_scenario(tmp_path, *given), head).heads for given in ((), (setting,)))
    assert changed - plain == 4 * parameters * more
    assert plain == 4 * parameters * 4  # the head, its gradient, the initial one, the one received


def test_masters_of_16_bits_count(tmp_path: Path) -> None:
    head = linear(2000)
    parameters = sum(each.numel() for each in head.parameters())
    scenario = small_scenario(tmp_path)
    inputs = torch.rand(4, 8, dtype=torch.bfloat16)
    found = need_of(scenario, task_of(scenario), head.bfloat16(), inputs, own_bytes=0).heads
    assert found == parameters * (2 + 2 + 2 * 4 + 2 * 4)


def test_frozen_parameters_have_no_gradient(tmp_path: Path) -> None:
    head = linear(2000)
    for each in head[0].parameters():
        each.requires_grad = False
    frozen, moved = (sum(each.numel() for each in head[number].parameters()) for number in (0, 2))
    assert need(small_scenario(tmp_path), head).heads == 4 * (frozen + 4 * moved)


@given(
    heads=st.integers(1, 9),
    jobs=st.integers(1, 3),
    cohort=st.integers(1, 3),
    extra=st.integers(0, 1),
    feedback=st.booleans(),
    moments=st.sampled_from(["reset", "keep"]),
    evaluates=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_each_job_has_a_batch_and_each_client_that_is_asked_a_head(
    tmp_path_factory: pytest.TempPathFactory,
    heads: int,
    jobs: int,
    cohort: int,
    extra: int,
    feedback: bool,
    moments: str,
    evaluates: bool,
) -> None:
    scenario = small_scenario(
        tmp_path_factory.mktemp("s"),
        "fleet.0.count=9",
        f"training.cohort={cohort}",
        f"training.head_moments={moments}",
        "training.head_optimizer={kind: adam}",
        f"flows.error_feedback={str(feedback).lower()}",
        f"stragglers={{policy: over_select, extra: {extra}}}" if extra else "stragglers.policy=wait_all",
        *(["task.partition=local", "task.data=nowhere", "task.held_out=0.2"] if evaluates else []),
    )
    head, inputs = linear(99), torch.rand(4, 8)
    one, many = (
        need_of(scenario, task_of(scenario), head, inputs, own_bytes=7, heads=count, jobs=at_once)
        for count, at_once in ((1, 1), (heads, jobs))
    )
    vector = sum(each.nbytes for each in head.parameters())
    resting = vector * feedback + 2 * vector * (moments == "keep")
    asked = heads if evaluates else min(heads, cohort + extra)
    assert many.heads == asked * one.heads + (heads - asked) * resting
    assert many.batches == pytest.approx(jobs * one.batches, rel=0.2)


def test_heads_that_cannot_rest_are_counted_whole(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "fleet.0.count=9", "training.cohort=1")
    inputs = torch.rand(4, 8, dtype=torch.bfloat16)
    one, many = (
        need_of(scenario, task_of(scenario), linear(99).bfloat16(), inputs, own_bytes=0, heads=heads).heads
        for heads in (1, 5)
    )
    assert many == 5 * one


def test_nothing_of_a_batch_stays_in_memory(tmp_path: Path) -> None:
    seen: list[weakref.ref[torch.Tensor]] = []
    head = linear(100)
    head[1].register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
    need(small_scenario(tmp_path), head)
    gc.collect()
    assert [each() for each in seen] == [None]


def test_a_codec_is_measured_while_it_works() -> None:
    assert 8_000_000 <= peak_of(lambda: np.ones(10**6)) < 8_100_000
    assert peak_of(lambda: None) < 10_000


def test_a_machine_with_less_is_told(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {416 * 1024} kB\n")
    assert too_small(400 * MIB, "", tmp_path) is None
    told = too_small(500 * MIB, "500 MiB (...)", tmp_path)
    assert told is not None
    assert told.startswith("this process needs about 500 MiB (...), and there are 416 MiB (MemTotal")
