"""What one client, or everybody, does wrong in a whole run: the others finish, and the summary names it."""

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.partition import client_rows
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import task_of
from server_node.live import serve
from server_node.summary import Summary, refusals
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario

WITH_NAN = """
from tests import small_task

def task():
    made = small_task.task()
    data = made.load()
    data.train.inputs[{rows}] = float("nan")
    return __import__("dataclasses").replace(made, load=lambda: data)
"""


def nan_in_the_data_of_c3(folder: Path, *settings: str) -> Scenario:
    """The small scenario with a device whose every sample is NaN."""
    plain = small_scenario(folder)
    rows = client_rows(plain, task_of(plain).load())[3].tolist()
    (folder / "with_nan.py").write_text(WITH_NAN.format(rows=rows))
    return small_scenario(folder, f"task.module={folder / 'with_nan.py'}", "training.cohort=4", *settings)


Run = Callable[[Scenario, Path], Coroutine[None, None, Summary]]


async def run_live(scenario: Scenario, folder: Path) -> Summary:
    connect, stop = MemoryBroker().transport, asyncio.Event()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(scenario, connect, run="small", folder=folder, stop=stop))
        group.create_task(host(scenario, connect, run="small", names=client_names(scenario), stop=stop))
    return server.result()


async def run_simulated(scenario: Scenario, folder: Path) -> Summary:
    return simulate(scenario, folder)


each_way = pytest.mark.parametrize("run", [run_live, run_simulated], ids=["live", "simulated"])


@each_way
@pytest.mark.parametrize("method", ["split", "fedavg"])
async def test_a_device_whose_data_are_nan_is_named_and_the_others_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, method: str
) -> None:
    """Before a run such data are refused; here they go bad after that."""
    monkeypatch.setattr(
        "edge_client.training.devices.rehearse_devices", lambda _scenario, task, _names: task.load()
    )
    monkeypatch.setattr("sim.simulation.run.rehearse", lambda *_: None)
    scenario = nan_in_the_data_of_c3(tmp_path, f"training.method={method}")
    summary = await run(scenario, tmp_path / "run")
    assert summary["reason"] == "complete"
    assert final_score(summary) > 0.9
    assert list(summary["messages"]["refused"]) == ["c3"]
    assert summary["messages"]["refused"]["c3"]["count"] == 20
    assert "20 messages were refused; 60 client steps counted" in refusals(summary)
    assert "c3: 20 refused, the last: gave-up: the device could not do round 20, step 0" in refusals(summary)


@each_way
async def test_a_rate_that_is_far_too_high_ends_as_diverged_with_a_summary_that_says_where(
    tmp_path: Path, run: Run
) -> None:
    scenario = small_scenario(tmp_path, "training.head_lr=1e30", "training.tail_lr=1e30")
    summary = await run(scenario, tmp_path / "run")
    assert summary["reason"].startswith("diverged: round ")
    assert "activations_up" in summary["reason"] or "head_update_up" in summary["reason"]
    assert any(client in summary["reason"] for client in client_names(scenario))
    assert json.loads((tmp_path / "run/summary.json").read_text())["reason"] == summary["reason"]


@pytest.mark.parametrize(
    ("rule", "method"),
    [
        *itertools.product(["clipped_mean", "trimmed_mean", "coordinate_median"], ["split", "fedavg"]),
        ("filtered_mean", "split"),
    ],
)
def test_every_rule_learns_and_gives_the_same_numbers_each_time(
    tmp_path: Path, rule: str, method: str
) -> None:
    settings = (f"training.aggregation={rule}", f"training.method={method}", "training.rounds=10")
    scenario = small_scenario(tmp_path, *settings)
    first, again = (simulate(scenario, tmp_path / name) for name in ("first", "again"))
    assert final_score(first) == final_score(again) > 0.85
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "again")]
    assert models[0] == models[1]


def test_what_is_refused_is_told_in_a_few_lines_the_worst_first() -> None:
    refused = {f"c{number}": {"count": number, "last": "range: why"} for number in range(1, 8)}
    messages = {"rejected": 28, "refused": refused}
    lines = refusals({"messages": messages, "client_steps": 3}).splitlines()  # type: ignore[typeddict-item]
    assert lines[0] == "28 messages were refused; 3 client steps counted:"
    assert lines[1] == "  c7: 7 refused, the last: range: why"
    assert lines[-1] == "  and 2 more clients"
    assert len(lines) == 7


def test_nothing_is_told_when_nothing_was_refused() -> None:
    assert refusals({"messages": {"refused": {}}}) == ""  # type: ignore[typeddict-item]
