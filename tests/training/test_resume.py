"""A run that goes on from its checkpoint is one run: its clock goes on, and each byte counts once."""

import asyncio
import copy
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.live import serve
from server_node.record import RunFolder
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from tests.helpers import small_scenario

REPORT = RoundReport(
    round=8, loss=0.5, metric=None, clients=3, client_steps=6, quantization_error=0.1, staleness=0.0, online=4
)


def test_the_seconds_of_a_resumed_run_go_on_from_the_checkpoints(tmp_path: Path) -> None:
    """100 s before; now the fleet gathers until 10 s of the server's clock, and a round takes 2.5 s."""
    now_s = 7.0
    scenario = small_scenario(tmp_path)
    before = asdict(replace(REPORT, round=7)) | {"elapsed_s": 100.0}
    record = RunFolder(
        tmp_path / "run",
        scenario,
        mode="live",
        metric="accuracy",
        ledger=Ledger(),
        clock=lambda: now_s,
        rows=[before],
    )
    now_s = 10.0
    record.start_training_clock()
    now_s = 12.5
    assert record.round(REPORT)["elapsed_s"] == 102.5
    summary = record.finish("complete", None)
    assert summary["rounds"] == 2
    assert summary["training_seconds"] >= 100


async def test_a_checkpoint_holds_the_bytes_of_its_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is written beside the run, which goes on and counts on meanwhile."""
    written: list[Progress] = []
    at_report: dict[int, Ledger] = {}

    def save(_folder: Path, progress: Progress, _tensors: object, **_options: object) -> None:
        written.append(progress)

    def watch(fact: Fact, ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            at_report[fact.round] = copy.deepcopy(ledger)

    monkeypatch.setattr(checkpoint, "save", save)
    scenario, stop = small_scenario(tmp_path), asyncio.Event()
    connect, names, folder = MemoryBroker().transport, client_names(scenario), tmp_path / "run"
    async with asyncio.TaskGroup() as group:
        group.create_task(host(scenario, connect, run="small", names=names, stop=stop))
        group.create_task(serve(scenario, connect, run="small", folder=folder, stop=stop, watch=watch))
    assert len(written[-1].rows) == 20
    for progress in written:
        assert progress.ledger == at_report[len(progress.rows)]
