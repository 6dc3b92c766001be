"""Targets of every kind travel live as in virtual time: the same bytes in every flow."""

import functools
from pathlib import Path

import pytest

from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from scenarios.schema.scenario import Scenario
from server_node.summary import Summary
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run


def scenario_of(folder: Path, name: str) -> Scenario:
    module = folder / "kind_task.py"
    module.write_text(f"from tests.cases.target_kinds import GOOD\n\ntask = GOOD[{name!r}]\n")
    settings = ["task.name=kind", f"task.module={module}", "training.rounds=6", "training.evaluate_every=1"]
    return small_scenario(folder, *settings)


def assert_same(live: Summary, simulated: Summary) -> None:
    assert live["reason"] == simulated["reason"] == "complete"
    assert live["messages"]["rejected"] == 0
    assert {name: live["bytes"][name] for name in FLOWS} == {name: simulated["bytes"][name] for name in FLOWS}
    assert final_score(live) == pytest.approx(final_score(simulated), rel=0.05, abs=0.05)


@pytest.mark.parametrize("name", ["one number", "tags", "soft labels"])
async def test_in_memory(tmp_path: Path, name: str) -> None:
    scenario = scenario_of(tmp_path, name)
    live = await run(scenario, MemoryBroker().transport, tmp_path / "live")
    assert_same(live, simulate(scenario, tmp_path / "simulated"))


@pytest.mark.parametrize("name", ["one number", "soft labels", "two outputs"])
async def test_over_mosquitto(tmp_path: Path, name: str, mosquitto_url: str) -> None:
    scenario = scenario_of(tmp_path, name)
    live = await run(scenario, functools.partial(MqttTransport, mosquitto_url), tmp_path / "live")
    assert_same(live, simulate(scenario, tmp_path / "simulated"))
