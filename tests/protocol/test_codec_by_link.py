"""Slower links get coarser codecs: by the scenario alone, so live, simulated and timed runs agree."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from broker.codecs import Codec, Float16, Float32, Int4, Int8, gradient_bytes
from broker.machine.actions import Online
from broker.transports.memory import MemoryBroker
from broker.wire.messages import Assignment
from scenarios.errors import ScenarioError
from scenarios.heads.parts import HeadForm
from scenarios.schema.links import Link
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from server_node.vocabulary.ledger import FLOWS
from server_node.vocabulary.plan import RoundPolicy, make_plan
from sim.simulation.run import simulate
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run as run_live
from tests.protocol.test_server_core import CODECS, PLAN, Server, activations, hello, said, update

RULE = (
    "{uplink_below_kbps: 500, activations_up: {codec: pq, subvectors: 2, groups: 1, centroids: 2}, "
    "gradient_down: {codec: int4}, head_update_up: {codec: int8}}"
)
SLOW = (f"flows.by_link=[{RULE}]", "fleet=[{count: 2, link: lte}, {count: 2, link: 2g}]")
HEAD = 8 * 16 + 16


def slow(folder: Path, *settings: str) -> Scenario:
    return small_scenario(folder, *SLOW, "training.cohort=4", "training.rounds=5", *settings)


def sent_by_round(scenario: Scenario) -> dict[str, int]:
    """Give the payload bytes of a round of all four clients, two of them behind slow links."""
    usual, coarse = scenario.flows.codecs_for("none"), scenario.flows.codecs_for("2g")
    return {
        "activations_up": sum(2 * codecs.activations_up.size_bytes(10, 16) for codecs in (usual, coarse)),
        "gradient_down": sum(
            2 * gradient_bytes(codecs.gradient_down, codecs.activations_up, 10, 16)
            for codecs in (usual, coarse)
        ),
        "head_update_up": sum(2 * codecs.head_update_up.size_bytes(1, HEAD) for codecs in (usual, coarse)),
        "head_state_down": 4 * usual.head_state_down.size_bytes(1, HEAD),
    }


async def test_slow_links_carry_the_bytes_of_their_rule_live_and_in_virtual_time(tmp_path: Path) -> None:
    scenario = slow(tmp_path)
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    expected = {flow: 5 * size for flow, size in sent_by_round(scenario).items()}
    for summary in (live, learned, timed):
        assert {flow: summary["bytes"][flow]["payload"] for flow in FLOWS} == expected
        assert summary["messages"]["rejected"] == 0
        assert {flow: summary["bytes"][flow] for flow in FLOWS} == {
            flow: live["bytes"][flow] for flow in FLOWS
        }
        assert summary["ratio"]["activations_up"] == live["ratio"]["activations_up"]
    assert learned["virtual_seconds"] == timed["virtual_seconds"]
    bits = 64 * 4 * 4 + 10 * 4 * 2, 64 * 2 * 8 + 10 * 2 * 1  # centroids as 64-bit floats, and codes
    assert live["ratio"]["activations_up"]["paper_64bit"] == pytest.approx(
        2 * 64 * 10 * 16 / sum(bits), abs=1e-4
    )


def test_a_slow_fleet_finishes_sooner_by_its_rule(tmp_path: Path) -> None:
    with_rule = simulate(slow(tmp_path), tmp_path / "with", timing_only=True)
    without = simulate(slow(tmp_path, "flows.by_link=[]"), tmp_path / "without", timing_only=True)
    assert (with_rule["virtual_seconds"] or 0.0) < (without["virtual_seconds"] or 0.0)


def test_it_still_learns(tmp_path: Path) -> None:
    assert final_score(simulate(slow(tmp_path, "training.rounds=20"), tmp_path / "run")) > 0.9


@pytest.mark.parametrize(
    ("uplink", "gradient", "head_update"),
    [
        (None, Float32(), Float16()),
        (1000, Float32(), Float16()),
        (999, Int8(), Float16()),
        (100, Int8(), Float16()),
        (99, Int4(), Int4()),
    ],
)
def test_of_the_rules_for_a_flow_the_slowest_counts(
    tmp_path: Path, uplink: float | None, gradient: Codec, head_update: Codec
) -> None:
    rules = (
        "flows.by_link=[{uplink_below_kbps: 100, gradient_down: {codec: int4}, "
        "head_update_up: {codec: int4}}, {uplink_below_kbps: 1000, gradient_down: {codec: int8}}]"
    )
    flows = small_scenario(tmp_path, rules, "flows.gradient_down={codec: float32}").flows
    codecs = flows.codecs_for(Link(uplink_kbps=uplink))
    assert (codecs.gradient_down, codecs.head_update_up) == (gradient, head_update)
    assert codecs.activations_up == flows.activations_up


COARSE = CODECS._replace(activations_up=Float16(), head_update_up=Int8())


def test_activations_in_the_codec_of_others_are_refused() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3), by_link={"a": COARSE}))
    server.begin()
    half = msgspec.structs.replace(activations(), payload=bytes(Float16().size_bytes(1, 4)))
    server.hear("a", activations())
    server.hear("b", half)
    assert server.ledger.rejected == {"shape": 2}
    server.hear("a", half)
    server.hear("b", activations())
    assert server.ledger.rejected == {"shape": 2}
    server.work()
    server.work()
    assert server.ledger.paper_bits == [2 * 64 * 4, 8 * Float16().size_bytes(1, 4) + 64 * 4]


def test_head_updates_in_the_codec_of_others_are_refused() -> None:
    server = Server(replace(PLAN, steps=0, round_policy=RoundPolicy(3), by_link={"a": COARSE}))
    server.begin()
    small = msgspec.structs.replace(update(), payload=bytes(Int8().size_bytes(1, 3)))
    server.hear("a", update())
    server.hear("b", small)
    assert server.ledger.rejected == {"shape": 2}
    server.hear("a", small)
    server.hear("b", update())
    assert server.ledger.rejected == {"shape": 2}


def test_clients_that_are_alike_share_one_assignment() -> None:
    server = Server(replace(PLAN, round_policy=RoundPolicy(3), by_link=dict.fromkeys("ac", COARSE)))
    server.handle(Online())
    server.work()
    greeted = [server.hear(client, hello()) for client in "abc"]
    a, b, c = [message for _, message in said(greeted[-1]) if isinstance(message, Assignment)]
    assert a is c
    assert [spec for (spec,) in a.codecs] == [1, 0, 2, 0]
    assert [spec for (spec,) in b.codecs] == [0] * 4


def test_a_fleet_shares_the_codecs_of_its_groups(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path, SLOW[0], "fleet=[{count: 2}, {count: 1, link: 2g}, {count: 2, link: 3g}]"
    )
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(HEAD))
    assert plan.by_link == {"c2": scenario.flows.codecs_for("2g")}
    assert [plan.codecs_of(client) is plan.codecs for client in plan.clients] == [
        True,
        True,
        False,
        True,
        True,
    ]
    whole = small_scenario(tmp_path, SLOW[0], "fleet=[{count: 5, link: 2g}]")
    plan = make_plan(whole, task_of(whole), run="r", head=HeadForm(HEAD))
    assert len({id(codecs) for codecs in plan.by_link.values()}) == 1


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (
            "{uplink_below_kbps: 9, activations_up: {codec: pq, subvectors: 5, groups: 1, centroids: 2}}",
            "flows.by_link.0.activations_up: subvectors must divide the 16 values",
        ),
        ("{uplink_below_kbps: 9}", "flows.by_link.0: needs a codec for activations_up, gradient_down, "),
        ("{activations_up: {codec: int8}}", "flows.by_link.0.uplink_below_kbps: required but missing"),
        (
            "{uplink_below_kbps: 9, head_state_down: {codec: int8}}",
            "flows.by_link.0.head_state_down: unknown key",
        ),
        ("{uplink_below_kbps: 9, gradient_down: {codec: int5}}", "unknown codec 'int5'; did you mean 'int"),
    ],
)
def test_mistakes_in_rules_are_told(tmp_path: Path, rule: str, problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, f"flows.by_link=[{rule}]")
    assert problem in str(caught.value)


async def test_fedavg_sends_coarser_models_over_slow_links(tmp_path: Path) -> None:
    scenario = slow(tmp_path, "training.method=fedavg")
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    parameters = HEAD + 16 * 4 + 4
    expected = 5 * 2 * (Float16().size_bytes(1, parameters) + Int8().size_bytes(1, parameters))
    assert live["bytes"]["head_update_up"]["payload"] == expected
    assert {flow: live["bytes"][flow] for flow in FLOWS} == {flow: timed["bytes"][flow] for flow in FLOWS}
