"""The page on the protocol suffices: a client that shares no code with this project takes part in a run."""

import asyncio
import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from broker.machine.actions import Online, Publish, Received
from broker.transports.mqtt import MqttTransport
from broker.wire.messages import Hello, Rejected, Welcome
from edge_client.live import host
from server_node.live import serve
from server_node.protocol.core import ServerCore
from server_node.vocabulary.ledger import Ledger
from tests import small_task
from tests.helpers import final_score, plan_of, small_scenario

FOREIGN = Path(__file__).parent / "foreign_client.py"
TASK = Path(__file__).parents[1] / "plain_task.py"


@pytest.mark.parametrize(
    "flows",
    [
        pytest.param((), id="pq, int8, float16"),
        pytest.param(
            (
                "flows.activations_up={codec: float32}",
                "flows.gradient_down={codec: float32}",
                "flows.head_state_down={codec: float32}",
                "training.correction.lambda=0.001",
                "training.local_steps=3",
            ),
            id="float32, three steps a round",
        ),
    ],
)
async def test_a_client_written_from_the_page_joins_a_run_and_finishes_it(
    tmp_path: Path, broker_url: str, run_name: str, flows: tuple[str, ...]
) -> None:
    scenario = small_scenario(
        tmp_path, f"task.module={TASK}", "training.cohort=4", "training.rounds=15", *flows
    )
    connect, stop = functools.partial(MqttTransport, broker_url), asyncio.Event()
    place, port = broker_url.removeprefix("mqtt://").split(":")
    foreign = await asyncio.create_subprocess_exec(
        sys.executable, str(FOREIGN), place, port, run_name, "c3", stdout=subprocess.PIPE, cwd=tmp_path
    )
    async with asyncio.TaskGroup() as group:
        server = group.create_task(serve(scenario, connect, run=run_name, folder=tmp_path / "run", stop=stop))
        group.create_task(host(scenario, connect, run=run_name, names=["c0", "c1", "c2"], stop=stop))
        said, _ = await foreign.communicate()
    summary = server.result()
    assert summary["reason"] == "complete"
    assert said.decode().split() == ["15", "complete"]
    assert summary["client_steps"] == 15 * 4 * scenario.training.local_steps
    assert summary["messages"]["rejected"] == 0
    assert final_score(summary) > 0.9


@pytest.mark.parametrize(
    ("hello", "answer"),
    [
        (Hello(1, "", 10, wants_welcome=True), Welcome),
        (Hello(1, "", 10, wants_welcome=False), Rejected),
        (Hello(1, "another", 10, wants_welcome=True), Rejected),
    ],
)
def test_a_client_without_a_scenario_is_welcome_and_one_with_another_is_not(
    tmp_path: Path, hello: Hello, answer: type
) -> None:
    plan = replace(plan_of(small_scenario(tmp_path), small_task.task()), alone=True)
    core = ServerCore(plan, Ledger())
    core.handle(Online(), 0.0)
    said = core.handle(Received("c3", hello, 10), 0.0)
    assert [type(each.message) for each in said if isinstance(each, Publish)] == [answer]
