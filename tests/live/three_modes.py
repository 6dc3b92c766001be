"""A scenario live, simulated, and simulated without training."""

from pathlib import Path

from broker.transports.memory import MemoryBroker
from scenarios.schema.scenario import Scenario
from server_node.summary import Summary
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.live.test_live import run as run_live


async def alike_in_three_modes(scenario: Scenario, folder: Path) -> Summary:
    """Assert that all three send as many bytes in each flow, and both that train learn the same."""
    live = await run_live(scenario, MemoryBroker().transport, folder / "live")
    learned = simulate(scenario, folder / "learned")
    timed = simulate(scenario, folder / "timed", timing_only=True)
    for summary in (learned, timed):
        assert [summary["bytes"][flow] for flow in FLOWS] == [live["bytes"][flow] for flow in FLOWS]
    assert learned["metric"]["final"] == live["metric"]["final"]
    assert live["messages"]["rejected"] == 0
    return live
