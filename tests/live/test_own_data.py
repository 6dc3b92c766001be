"""Devices with data of their own: the same run as with shares, and what may differ between them."""

import asyncio
import functools
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_model
from torch import nn
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.exits import COMPLETE
from broker.servers.spawn import local_broker
from broker.transports.memory import MemoryBroker
from edge_client import core
from edge_client.live import host
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.loading.published import publish_scenario
from scenarios.local import read_share, write_share
from scenarios.local.held_out import held_out
from scenarios.schema.scenario import Scenario, client_names, scenario_digest
from scenarios.task import Split
from scenarios.training import evaluate, initial_model, uncut
from server_node import live
from server_node.live import serve
from server_node.summary import Summary
from server_node.vocabulary.ledger import FLOWS, Ledger
from server_node.vocabulary.plan import make_plan
from server_node.vocabulary.reports import Fact, Noticed, RoundReport
from sim.simulation.run import simulate
from tests.helpers import final_score, small_file, small_scenario
from tests.small_task import points, task

GUIDE = Path(__file__).parents[2] / "docs/own-data.md"
LOCAL = "task.partition=local"
WHOLE = "fleet=[{count: 4, device: {whole_model_s: 0.01}}]"


def shares(folder: Path, **rows: int) -> str:
    """Write samples of the small task for some clients; gives the setting that names them."""
    for number, (client, count) in enumerate(rows.items()):
        write_share(folder / client, points(count, number + 1))
    return f"task.data={folder}"


def same_learning(one: Path, other: Path) -> bool:
    """Compare models to the byte, and every round's figures but for the bytes of control, on links too.

    The scenario's own text is published, and is another one.
    """
    rows = [pq.read_table(folder / "metrics.parquet").to_pylist() for folder in (one, other)]
    for row in rows[0] + rows[1]:
        for key in ("control_wire_bytes", "links_up_bytes", "links_down_bytes", "elapsed_s"):
            del row[key]
    models = {(folder / "model.safetensors").read_bytes() for folder in (one, other)}
    return repr(rows[0]) == repr(rows[1]) and len(models) == 1


async def run(
    scenario: Scenario, folder: Path, *apart: list[str], facts: list[Fact] | None = None
) -> Summary:
    """Run the server, and a process for each of these lists of clients."""
    stop, begun, broker = asyncio.Event(), asyncio.Event(), MemoryBroker()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if facts is not None:
            facts.append(fact)

    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, broker.transport, run=scenario.name, folder=folder, stop=stop, begun=begun)
        )
        await begun.wait()
        for names in apart or [client_names(scenario)]:
            group.create_task(host(scenario, broker.transport, run=scenario.name, names=names, stop=stop))
    return server.result()


# The same as with shares.


@pytest.mark.parametrize("partition", ["iid", "{dirichlet_alpha: 0.3}"])
@pytest.mark.parametrize("settings", [[], ["training.method=fedavg"], ["training.local_steps=2"]], ids=str)
def test_exported_shares_give_the_same_run_to_the_byte(
    tmp_path: Path, partition: str, settings: list[str]
) -> None:
    settings = [f"task.partition={partition}", *settings]
    options = [f"--set={setting}" for setting in settings]
    exported = CliRunner().invoke(
        app, ["data", "export", str(small_file(tmp_path)), *options, "--to", str(tmp_path / "shares")]
    )
    assert exported.exit_code == 0, exported.output
    assert exported.output.splitlines()[3] == f"{tmp_path / 'shares/c3'}: 50 samples"
    one = simulate(small_scenario(tmp_path, *settings), tmp_path / "one")
    own = small_scenario(tmp_path, *settings, LOCAL, f"task.data={tmp_path / 'shares'}")
    other = simulate(own, tmp_path / "other")
    assert same_learning(tmp_path / "one", tmp_path / "other")
    assert [one["bytes"][flow] for flow in FLOWS] == [other["bytes"][flow] for flow in FLOWS]


async def test_a_live_run_with_them_is_the_same_as_well(tmp_path: Path) -> None:
    setting = ["training.cohort=1", "training.rounds=8"]  # alone in its round, nothing can be reordered
    small_file(tmp_path)
    CliRunner().invoke(
        app, ["data", "export", str(tmp_path / "small.yaml"), "--to", str(tmp_path / "shares")]
    )
    own = small_scenario(tmp_path, *setting, LOCAL, f"task.data={tmp_path / 'shares'}")
    await run(small_scenario(tmp_path, *setting), tmp_path / "one")
    await run(own, tmp_path / "two", ["c0", "c2"], ["c1"], ["c3"])
    assert same_learning(tmp_path / "one", tmp_path / "two")


def test_a_task_alone_is_exported_in_equal_shares_and_nothing_is_overwritten(tmp_path: Path) -> None:
    command = ["data", "export", "digits28", "--clients", "7", "--to", str(tmp_path)]
    result = CliRunner().invoke(app, command)
    assert re.findall(r"(\w+): (\d+) samples", result.output)[0] == ("c0", "572")
    assert len(result.output.splitlines()) == 7
    unknown = CliRunner().invoke(app, ["data", "export", "digits", "--to", str(tmp_path)])
    assert "no task or scenario 'digits'; did you mean 'digits28'? known: digits28, " in unknown.output
    again = CliRunner().invoke(app, command)
    assert (again.exit_code, again.output.count("is there already")) == (2, 1)


# The metric from what devices keep.


async def test_without_test_data_the_metric_comes_from_the_devices_live_and_simulated(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=120, c1=60, c2=20, c3=0)
    scenario = small_scenario(tmp_path, LOCAL, data, "task.held_out=0.3", "training.cohort=1")
    real = await run(scenario, tmp_path / "live")
    virtual = simulate(scenario, tmp_path / "virtual")
    assert final_score(real) == pytest.approx(final_score(virtual), abs=0.02)
    assert [real["bytes"][flow] for flow in FLOWS] == [virtual["bytes"][flow] for flow in FLOWS]
    assert final_score(real) > 0.9
    rows = pq.read_table(tmp_path / "live/metrics.parquet").to_pylist()
    assert [row["round"] for row in rows if row["metric"] is not None] == [5, 10, 15, 20]


def test_the_metric_is_that_of_the_last_model_on_all_rows_that_are_kept(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=40, c1=20, c2=9, c3=0)
    exact = [f"flows.{flow}.codec=float32" for flow in ("activations_up", "head_state_down")]
    scenario = small_scenario(tmp_path, LOCAL, data, "task.held_out=0.4", "training.rounds=5", *exact)
    summary = simulate(scenario, tmp_path / "run")
    head, tail = initial_model(task(), 0)
    load_model(nn.ModuleDict({"head": head, "tail": tail}), tmp_path / "run/model.safetensors")
    kept = [held_out(read_share(tmp_path / f"data/c{n}"), 0.4, scenario.seed)[1] for n in range(3)]
    inputs, targets = (torch.cat([getattr(each, part) for each in kept]) for part in ("inputs", "targets"))
    assert final_score(summary) == pytest.approx(evaluate(task(), Split(inputs, targets), head, tail))
    assert len(targets) > 10


@pytest.mark.parametrize("codec", ["{codec: int8}", "{codec: float32}"])
def test_with_fedavg_the_metric_is_exact_whatever_codecs_are_set(tmp_path: Path, codec: str) -> None:
    data = shares(tmp_path / "data", c0=40, c1=20, c2=9, c3=0)
    exact = [f"flows.activations_up={codec}", "flows.head_state_down.codec=float32"]
    own = [LOCAL, data, "task.held_out=0.4", "training.method=fedavg", "training.rounds=5", WHOLE]
    scenario = small_scenario(tmp_path, *own, *exact)
    summary = simulate(scenario, tmp_path / "run")
    whole = uncut(task())
    head, tail = initial_model(whole, 0)
    load_model(nn.ModuleDict({"head": head, "tail": tail}), tmp_path / "run/model.safetensors")
    kept = [held_out(read_share(tmp_path / f"data/c{n}"), 0.4, scenario.seed)[1] for n in range(3)]
    inputs, targets = (torch.cat([getattr(each, part) for each in kept]) for part in ("inputs", "targets"))
    assert final_score(summary) == pytest.approx(evaluate(whole, Split(inputs, targets), head, tail))
    assert summary["bytes"]["activations_up"]["payload"] == 4 * len(targets)  # of scores, in one evaluation
    assert summary["messages"]["rejected"] == 0


async def test_with_fedavg_live_and_simulated_are_the_same(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=120, c1=60, c2=20, c3=0)
    own = [LOCAL, data, "task.held_out=0.3", "training.method=fedavg", WHOLE]
    scenario = small_scenario(tmp_path, *own)
    real, virtual = await run(scenario, tmp_path / "live"), simulate(scenario, tmp_path / "virtual")
    assert same_learning(tmp_path / "live", tmp_path / "virtual")
    assert [real["bytes"][flow] for flow in FLOWS] == [virtual["bytes"][flow] for flow in FLOWS]
    assert final_score(real) > 0.9


def test_where_the_data_are_is_each_devices_own_affair(tmp_path: Path) -> None:
    here, there = (small_scenario(tmp_path, LOCAL, *setting) for setting in ([], ["task.data=/some/where"]))
    assert scenario_digest(here) == scenario_digest(there)
    assert publish_scenario(here) == publish_scenario(there)
    other = small_scenario(tmp_path, LOCAL, "task.held_out=0.1")
    assert scenario_digest(other) != scenario_digest(here)


async def test_evaluation_is_not_learned_from(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=120, c1=60, c2=20, c3=30)
    models = set()
    for every in (1, 20):
        settings = [LOCAL, data, "task.held_out=0.3", f"training.evaluate_every={every}"]
        simulate(small_scenario(tmp_path, *settings), tmp_path / f"{every}")
        models.add((tmp_path / f"{every}/model.safetensors").read_bytes())
    assert len(models) == 1


# What may differ.


def test_one_class_only_and_unequal_amounts(tmp_path: Path) -> None:
    split = points(200, 1)
    for label in range(4):
        rows = np.flatnonzero(split.targets.numpy() == label)[: 1 + 12 * label]
        write_share(tmp_path / f"data/c{label}", split.take(rows))
    scenario = small_scenario(
        tmp_path, LOCAL, f"task.data={tmp_path / 'data'}", "training.cohort=4", "training.rounds=40"
    )
    summary = simulate(scenario, tmp_path / "run")
    assert summary["reason"] == COMPLETE
    assert final_score(summary) > 0.8


async def test_a_device_that_is_empty_takes_part_when_it_has_data_and_a_half_written_file_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(core, "LOOK_S", 0.05)
    data = shares(tmp_path / "data", c0=50, c1=50, c2=50)
    empty = tmp_path / "data/c3"
    empty.mkdir()
    scenario = small_scenario(
        tmp_path, LOCAL, data, "training.rounds=100000", "training.evaluate_every=100000"
    )
    broker, stop, facts = MemoryBroker(), asyncio.Event(), list[Fact]()
    seen = asyncio.Event()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        facts.append(fact)
        if isinstance(fact, RoundReport) and fact.round == 3:
            (empty / "half.npz").write_bytes(b"PK half of a file")
        if isinstance(fact, RoundReport) and "cannot be read as an npz file" in caplog.text:
            (empty / "half.npz").unlink(missing_ok=True)
            if not (empty / "share.npz").exists():
                write_share(empty, points(30, 9))
        if isinstance(fact, RoundReport) and fact.online == 4:
            seen.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(scenario, broker.transport, run="r", folder=tmp_path / "r", stop=stop, watch=watch)
        )
        group.create_task(host(scenario, broker.transport, run="r", names=client_names(scenario), stop=stop))
        async with asyncio.timeout(60):
            await seen.wait()
        stop.set()
    said = "has no samples; it is not chosen before it has some"
    assert [fact for fact in facts if isinstance(fact, Noticed)] == [Noticed("c3", said)]
    assert {fact.online for fact in facts if isinstance(fact, RoundReport)} == {3, 4}
    assert caplog.text.count("c3 has no samples yet; it waits for some, and is not chosen before") == 1
    assert caplog.text.count("the device goes on with the data that it has") >= 1


# Mistakes.


def spoil(folder: Path) -> None:
    split = points(20, 1)
    split.inputs[7, 3] = float("nan")
    write_share(folder, split)


async def test_a_client_whose_data_cannot_be_used_says_why_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.ERROR)
    data = shares(tmp_path / "data", c0=50, c1=50, c2=50)
    spoil(tmp_path / "data/c3")
    scenario = small_scenario(tmp_path, LOCAL, data, "training.rounds=5")
    make = functools.partial(host, scenario, MemoryBroker().transport, run="r", stop=asyncio.Event())
    why = f"task.data: {tmp_path}/data/c3, the data of client c3: an input of client c3 is nan, in row 7: "
    with pytest.raises(ScenarioError, match=f"^{re.escape(why)}inputs must be finite$"):
        await make(names=["c3"])
    monkeypatch.setattr(live, "make_plan", lambda *a, **k: replace(make_plan(*a, **k), join_s=0.2))
    broker, stop = MemoryBroker(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, broker.transport, run="r", folder=tmp_path / "r", stop=stop)
        )
        clients = group.create_task(
            host(scenario, broker.transport, run="r", names=client_names(scenario), stop=stop)
        )
    assert server.result()["rounds"] == 5
    ended = clients.result()
    assert ended.pop("c3").startswith(f"data: {why}")
    assert set(ended.values()) == {COMPLETE}
    assert caplog.text.count("c3 does not take part: ") == 1


WRONG = {
    "no folder": ("no folder c3 in {}, which has c0, c1, c2: with several clients' data each needs a folder"),
    "too wide": "the head, given inputs of shape (6, 9) and dtype float32, fails: RuntimeError: mat",
    "a float target": "must be integers, not float32",
    "a large label": "a target of client c3 is 4, in row 0: with classes 4, targets must be 0 to 3",
    "tags": "target_shape says (), a target of the local split has shape (2,)",
}


def break_share(folder: Path, name: str) -> None:
    whole = points(6, 1)
    inputs, targets = whole.inputs.numpy(), whole.targets.numpy()
    arrays = {
        "too wide": (np.zeros((6, 9), np.float32), targets),
        "a float target": (inputs, targets.astype(np.float32)),
        "a large label": (inputs, targets * 0 + 4),
        "tags": (inputs, np.stack([targets, targets], 1)),
    }
    if name in arrays:
        folder.mkdir(parents=True)
        np.savez(folder / "a.npz", inputs=arrays[name][0], targets=arrays[name][1])


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", [["simulate"], ["run"], ["scenarios", "validate"]], ids=" ".join)
def test_every_command_refuses_wrong_data_in_a_sentence(
    tmp_path: Path, name: str, command: list[str]
) -> None:
    data = shares(tmp_path / "data", c0=5, c1=5, c2=5)
    break_share(tmp_path / "data/c3", name)
    options = [f"--set={data}", f"--set={LOCAL}"]
    result = CliRunner().invoke(app, [*command, str(small_file(tmp_path)), *options])
    assert result.exit_code == 2
    assert result.output.startswith("error: ")
    assert WRONG[name].format(tmp_path / "data") in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["task.data=/tmp"], "task.data: goes with partition: local; here devices take shares"),
        (["task.held_out=0.1"], "task.held_out: goes with partition: local"),
        ([LOCAL, "task.held_out=1"], "task.held_out: must be a number >= 0 and < 1"),
        ([LOCAL], "task.data: partition: local needs the devices' own data: name them with --data"),
        ([LOCAL, "task.data=/gone"], "task.data: no such file or folder: /gone"),
    ],
)
def test_settings_that_do_not_go_together_are_told(tmp_path: Path, settings: list[str], told: str) -> None:
    options = [f"--set={setting}" for setting in settings]
    result = CliRunner().invoke(app, ["simulate", str(small_file(tmp_path)), *options])
    assert result.exit_code == 2
    assert told in result.output


def test_when_no_client_has_any_sample_the_simulation_does_not_begin(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=0, c1=0, c2=0, c3=0)
    with pytest.raises(ScenarioError, match=r"^task\.data: no client has any sample$"):
        simulate(small_scenario(tmp_path, LOCAL, data), tmp_path / "run")


def test_durations_are_simulated_with_each_clients_number_of_samples(tmp_path: Path) -> None:
    data = shares(tmp_path / "data", c0=3, c1=3, c2=3, c3=3)
    own = simulate(small_scenario(tmp_path, LOCAL, data), tmp_path / "own", timing_only=True)
    assert own["bytes"]["activations_up"].get("raw_float32") == 60 * 3 * 16 * 4


# The page.


def written_by_the_guide(folder: Path) -> list[str]:
    """Write the files of docs/own-data.md, and give its shell blocks."""
    text = GUIDE.read_text("utf-8")
    blocks = dict(re.findall(r"\(`([\w.]+)`\):\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    assert blocks.keys() == {
        *("make_rows.py", "motion.py", "motion.yaml"),
        *("make_pictures.py", "pictures.py", "pictures.yaml"),
    }
    for name, content in blocks.items():
        (folder / name).write_text(content)
    return re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def shell_in(folder: Path) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Give what runs shell commands in a folder, with this package's programs."""
    programs = Path(sys.executable).parent
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    root = str(GUIDE.parents[1])
    return functools.partial(
        subprocess.run,
        shell=True,
        cwd=folder,
        env=os.environ | {"PATH": path, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_the_guide_leads_from_folders_of_images_to_a_model(tmp_path: Path) -> None:
    images = written_by_the_guide(tmp_path)[-1].splitlines()
    assert images.pop(0) == "pip install 'fedlite-mqtt[images]'"
    done = shell_in(tmp_path)("set -e\n" + "\n".join(images))
    assert done.returncode == 0, done.stderr
    assert "pictures: valid, 3 clients, 20 rounds" in done.stdout
    said = re.search(r"with an accuracy of (\d\.\d+)", GUIDE.read_text("utf-8"))
    summary = load_summary(tmp_path / "runs/pictures-simulated/summary.json")
    assert said is not None
    assert final_score(summary) == pytest.approx(float(said[1]), abs=0.05)


@pytest.mark.slow
def test_the_guide_leads_to_a_fleet_of_three_processes(tmp_path: Path, broker_folder: Path) -> None:
    first, here, fleet, _ = written_by_the_guide(tmp_path)
    shell = shell_in(tmp_path)
    for block in (first, here):
        done = shell(f"set -e\n{block}")
        assert done.returncode == 0, done.stderr
    assert "motion: valid, 3 clients, 30 rounds" in done.stdout
    with local_broker("embedded", broker_folder) as url:
        begun, *commands = fleet.splitlines()
        assert begun == "fedlite broker"
        terminals = " &\n".join([*commands, "wait"]).replace("mqtt://127.0.0.1:1883", url)
        done = shell(terminals)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run is over: complete") == 3
    summary = load_summary(tmp_path / "runs/motion/summary.json")
    assert final_score(summary) > 0.9
    assert summary["messages"]["rejected"] == 0
    scenario = load_scenario(tmp_path / "runs/motion/scenario.yaml")
    assert scenario.task.data is None


def load_summary(file: Path) -> Summary:
    loaded: Summary = json.loads(file.read_text())
    return loaded
