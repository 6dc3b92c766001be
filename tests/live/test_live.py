"""A whole run: real state machines, real training of a small model, over each kind of broker."""

import asyncio
import functools
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from safetensors import SafetensorError
from safetensors.torch import save_file

from broker.errors import BrokerError
from broker.transports.base import Connect
from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.schema.scenario import Scenario, client_names
from server_node import checkpoint
from server_node.live import serve
from server_node.summary import Summary
from server_node.vocabulary.ledger import FLOWS, Ledger
from server_node.vocabulary.reports import Dropped, Fact, RoundReport
from sim.commands.progress import summary_table
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario


async def run(scenario: Scenario, connect: Connect, folder: Path) -> Summary:
    """Run server and all clients in this event loop; a broker may still say that an earlier run has ended."""
    stop, begun = asyncio.Event(), asyncio.Event()
    names = client_names(scenario)
    async with asyncio.TaskGroup() as group:
        serving = serve(scenario, connect, run=scenario.name, folder=folder, stop=stop, begun=begun)
        server = group.create_task(serving)
        await begun.wait()
        clients = group.create_task(host(scenario, connect, run=scenario.name, names=names, stop=stop))
    assert set(clients.result().values()) == {"complete"}
    return server.result()


async def test_it_learns_and_accounts_for_every_byte(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    summary = await run(scenario, MemoryBroker().transport, tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["rounds"] == 20
    assert summary["client_steps"] == 60
    assert final_score(summary) > 0.9
    steps, d, head = 60, 16, 8 * 16 + 16
    flows = summary["bytes"]
    assert flows["activations_up"]["raw_float32"] == steps * 10 * d * 4
    assert flows["activations_up"]["payload"] == steps * (1 + 4 * 4 * 2 + 10 * 4 * 2 // 8)
    assert flows["head_update_up"]["payload"] == steps * (1 + 2 * head)
    assert flows["head_state_down"]["raw_float32"] == steps * head * 4
    messages = summary["messages"]
    assert (messages["rejected"], messages["duplicates"], messages["discarded_late"]) == (0, 0, 0)
    assert summary["ratio"]["activations_up"]["paper_64bit"] == pytest.approx(
        64 * 10 * d / (64 * 4 * 4 + 10 * 4 * 2), abs=1e-4
    )


async def test_the_folder_it_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    summary = await run(small_scenario(tmp_path), MemoryBroker().transport, folder)
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert [row["round"] for row in rows] == list(range(1, 21))
    assert rows[-1]["metric"] == summary["metric"]["final"]
    for flow in FLOWS:
        assert rows[-1][f"{flow}_wire_bytes"] == summary["bytes"][flow]["wire"]
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert {path.name for path in folder.iterdir()} == {
        "scenario.yaml", "environment.json", "metrics.parquet", "summary.json", "model.safetensors",
        "checkpoint.safetensors", "checkpoint.previous.safetensors", "server.json", "server.lock",
    }  # fmt: skip


async def test_the_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.cohort=1")  # alone in its round, nothing can be reordered
    one = await run(scenario, MemoryBroker().transport, tmp_path / "one")
    two = await run(scenario, MemoryBroker().transport, tmp_path / "two")
    assert (tmp_path / "one/model.safetensors").read_bytes() == (
        tmp_path / "two/model.safetensors"
    ).read_bytes()
    assert one["bytes"] == two["bytes"]


async def test_several_local_steps(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.local_steps=3", "training.correction.lambda=0.01")
    summary = await run(scenario, MemoryBroker().transport, tmp_path / "run")
    assert summary["client_steps"] == 180
    assert final_score(summary) > 0.9


async def test_over_a_real_broker(tmp_path: Path, broker_url: str) -> None:
    connect = functools.partial(MqttTransport, broker_url)
    summary = await run(small_scenario(tmp_path), connect, tmp_path / "run")
    memory = await run(small_scenario(tmp_path), MemoryBroker().transport, tmp_path / "memory")
    assert final_score(summary) > 0.9
    for flow in FLOWS:
        assert summary["bytes"][flow] == memory["bytes"][flow]


async def test_a_client_that_dies_does_not_stop_the_run(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=60", "training.cohort=4")
    broker, stop = MemoryBroker(), asyncio.Event()
    facts: list[Fact] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        facts.append(fact)
        if isinstance(fact, RoundReport) and fact.round == 5:
            broker.kill("small-c2")

    async def doomed() -> None:
        with pytest.raises(ExceptionGroup):
            await host(scenario, broker.transport, run="small", names=["c2"], stop=stop)

    folder = tmp_path / "run"
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, broker.transport, run="small", folder=folder, stop=stop, watch=watch)
        )
        group.create_task(host(scenario, broker.transport, run="small", names=["c0", "c1", "c3"], stop=stop))
        group.create_task(doomed())
    assert Dropped(6, "c2") in facts
    assert [fact.clients for fact in facts if isinstance(fact, RoundReport)] == [4] * 5 + [3] * 55
    assert server.result()["reason"] == "complete"


@pytest.mark.parametrize(
    "policy",
    [
        "{policy: deadline, deadline_s: 0.5, minimum: 2}",
        "{policy: over_select, extra: 1}",
        "{policy: buffered, buffer: 2, max_staleness: 3}",
    ],
)
async def test_every_policy_learns(tmp_path: Path, policy: str) -> None:
    scenario = small_scenario(tmp_path, f"stragglers={policy}", "training.local_steps=2")
    summary = await run(scenario, MemoryBroker().transport, tmp_path / "run")
    assert summary["rounds"] == 20
    assert final_score(summary) > 0.9


async def test_a_server_that_died_goes_on_where_it_was(tmp_path: Path) -> None:
    scenario, folder = small_scenario(tmp_path), tmp_path / "run"
    broker, stop = MemoryBroker(), asyncio.Event()
    reached = asyncio.Event()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport) and fact.round == 12:
            reached.set()

    async with asyncio.TaskGroup() as group:
        names = client_names(scenario)
        clients = group.create_task(host(scenario, broker.transport, run="small", names=names, stop=stop))
        first = asyncio.create_task(
            serve(scenario, broker.transport, run="small", folder=folder, stop=stop, watch=watch)
        )
        await reached.wait()
        first.cancel()
        await asyncio.wait({first})
        second = group.create_task(serve(scenario, broker.transport, run="small", folder=folder, stop=stop))
    assert set(clients.result().values()) == {"complete"}
    summary = second.result()
    rows = pq.read_table(folder / "metrics.parquet").to_pylist()
    assert [row["round"] for row in rows] == list(range(1, 21))  # from its newest checkpoint
    assert final_score(summary) > 0.9
    assert summary["bytes"]["activations_up"]["raw_float32"] == 60 * 10 * 16 * 4


async def test_a_checkpoint_that_cannot_be_written_is_told_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "run"
    (folder / checkpoint.FILE).mkdir(parents=True)  # in the way
    summary = await run(small_scenario(tmp_path), MemoryBroker().transport, folder)
    assert (summary["reason"], summary["rounds"]) == ("complete", 20)
    assert summary["checkpoint_error"].startswith(f"cannot write {folder / checkpoint.FILE}: ")
    assert json.loads((folder / "summary.json").read_text()) == summary
    [told] = [record for record in caplog.records if "without a checkpoint" in record.message]
    assert told.levelname == "WARNING"
    assert "the last checkpoint is missing: cannot write " in summary_table(summary)


async def test_a_disk_that_has_room_again_is_forgiven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = list[int]()

    def full_at_first(*arguments: Any, **options: Any) -> None:
        tries.append(1)
        if len(tries) == 1:
            raise SafetensorError("Error while serializing: No space left on device")
        save_file(*arguments, **options)

    monkeypatch.setattr("server_node.checkpoint.save_file", full_at_first)
    summary = await run(small_scenario(tmp_path), MemoryBroker().transport, tmp_path / "run")
    assert len(tries) > 2  # a checkpoint of the end, and the model
    assert "checkpoint_error" not in summary
    assert (tmp_path / "run" / checkpoint.FILE).is_file()


async def test_a_bug_in_a_checkpoint_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_arguments: object, **_options: object) -> None:
        raise TypeError("not a tensor")

    monkeypatch.setattr("server_node.checkpoint.save_file", bug)
    scenario, broker, stop = small_scenario(tmp_path), MemoryBroker(), asyncio.Event()
    hosting = asyncio.create_task(
        host(scenario, broker.transport, run="small", names=client_names(scenario), stop=stop)
    )
    with pytest.raises(ExceptionGroup) as raised:
        await serve(scenario, broker.transport, run="small", folder=tmp_path / "run", stop=stop)
    assert raised.value.subgroup(TypeError) is not None
    stop.set()
    await hosting


async def test_a_run_does_not_show_the_results_of_the_one_before(tmp_path: Path) -> None:
    scenario, folder = small_scenario(tmp_path), tmp_path / "run"
    simulate(scenario, folder)
    results = {"summary.json", "metrics.parquet", "model.safetensors", "trace.json"}
    assert {file.name for file in folder.iterdir()} >= results
    stop, connect = asyncio.Event(), functools.partial(MqttTransport, "mqtt://127.0.0.1:1")
    with pytest.raises(BrokerError):
        await serve(scenario, connect, run="small", folder=folder, stop=stop, fresh=True)
    left = {file.name for file in folder.iterdir()}
    assert left == {"scenario.yaml", "environment.json", "server.json", "server.lock"}
