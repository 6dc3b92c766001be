"""With `flows.head_since: last` the head comes down as a change of the one that a device was sent before."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.codecs import codec_to_wire
from broker.transports.memory import MemoryBroker
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment
from edge_client.jobs import FirstBatch
from edge_client.training.device import Device
from edge_client.training.devices import make_devices
from scenarios.errors import ScenarioError
from scenarios.heads.held import HeldHeads
from scenarios.heads.parts import form_of
from scenarios.schema.scenario import Scenario, scenario_digest
from scenarios.tasks import task_of
from scenarios.training import head_vector, initial_model
from server_node.tail import Tail
from server_node.vocabulary.jobs import ChangesEncoded, EncodeChanges
from server_node.vocabulary.ledger import FLOWS
from server_node.vocabulary.plan import make_plan
from sim.simulation.run import simulate
from tests.helpers import small_scenario
from tests.live.test_live import run as run_live

COARSE = (
    "flows.head_since=last",
    "flows.head_update_up={codec: low_rank, rank: 1, bits: 4}",
    "flows.head_state_down={codec: low_rank, rank: 1, bits: 4}",
)
INITIAL = np.zeros(3, np.float32)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_whatever_is_lost_the_device_has_the_head_that_the_next_is_a_change_of(
    rounds: list[tuple[bool, bool, bool]],
) -> None:
    """In each round the device may be another one, the assignment be lost, and the answer to it as well."""
    server, device = HeldHeads(INITIAL), HeldHeads(INITIAL)
    known = 0
    for number, (is_anew, arrives, is_heard_of) in enumerate(rounds, start=1):
        if is_anew:  # it greets, so the server knows
            device, known = HeldHeads(INITIAL), 0
        change = np.full(3, number, np.float32)
        sent = server.take(known, number, change)
        if arrives:
            assert (device.take(known, number, change) == sent).all()
            known = number if is_heard_of else known
        assert max(len(server.rounds), len(device.rounds)) <= 2
    assert (server.base(known) == device.base(known)).all()


# The server's side.


def tail_of(scenario: Scenario) -> Tail:
    task = task_of(scenario)
    head, tail = initial_model(task, scenario.seed)
    plan = make_plan(scenario, task, run="run", head=form_of(head))
    return Tail(task, None, head=head, tail=tail, plan=plan, training=scenario.training)


def drift(server: Tail, rng: np.random.Generator) -> None:
    """Move the server's head as some rounds of training may do."""
    for parameter in server.head.parameters():
        parameter.data += torch.from_numpy(0.1 * rng.standard_normal(parameter.shape, np.float32))


def sent(server: Tail, number: int, since: int) -> bytes:
    result = server.run(EncodeChanges(number, {"c0": since}))
    assert isinstance(result, ChangesEncoded)
    return result.heads["c0"]


def device_of(scenario: Scenario) -> Device:
    return make_devices(scenario, ["c0"])["c0"]


def begin(scenario: Scenario, device: Device, number: int, since: int, head: bytes) -> object:
    codecs = tuple(map(codec_to_wire, scenario.flows.codecs_for("none")[:4]))
    return device.run(FirstBatch("c0", Assignment(1, number, 1, 1, 0.0, codecs, head, since=since)))  # type: ignore[arg-type]


def test_device_and_server_agree_to_the_bit_upon_what_the_device_has(tmp_path: Path) -> None:
    scenario, rng = small_scenario(tmp_path, *COARSE), np.random.default_rng(1)
    server, device = tail_of(scenario), device_of(scenario)
    for number, since in ((1, 0), (4, 1), (5, 1), (9, 5), (11, 0), (12, 11)):
        drift(server, rng)
        assert isinstance(begin(scenario, device, number, since, sent(server, number, since)), Activations)
        held = server.state().held["c0"]
        assert sorted(held) == sorted({number, since} - {0})
        assert (device.head.received == held[number].numpy()).all()


def test_what_a_coarse_codec_loses_is_sent_with_the_next_head(tmp_path: Path) -> None:
    """A head that rests: the device comes ever nearer to it. With changes since the start it does not."""
    server = tail_of(small_scenario(tmp_path, *COARSE))
    drift(server, np.random.default_rng(2))
    head = head_vector(server.head)

    def far(number: int, since: int) -> float:
        sent(server, number, since)
        return float(np.linalg.norm(server.state().held["c0"][number].numpy() - head))

    since_the_last = [far(number, number - 1) for number in range(1, 9)]
    since_the_start = [far(number, 0) for number in range(20, 28)]
    assert since_the_last[-1] < 0.2 * since_the_last[0]
    assert min(since_the_start) > 0.8 * since_the_start[0]
    assert len(sent(server, 30, 0)) == len(sent(server, 31, 0))


# The device's side.


def test_a_change_of_a_head_that_the_device_has_not_is_refused(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *COARSE)
    payload = sent(tail_of(scenario), 3, 0)
    refused = begin(scenario, device_of(scenario), 3, 2, payload)
    assert isinstance(refused, WireError)
    assert str(refused) == "order: a head as a change of that of round 2, which is not here"


def test_without_the_setting_a_change_is_refused_even_if_the_round_was_there(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *COARSE)
    plain = small_scenario(tmp_path, *COARSE[1:])
    payload = sent(tail_of(scenario), 1, 0)
    device = device_of(plain)
    assert isinstance(begin(plain, device, 1, 0, payload), Activations)
    assert isinstance(begin(plain, device, 2, 1, payload), WireError)
    assert device.state() is None or not device.state().held  # type: ignore[union-attr]


def test_a_device_goes_on_with_the_heads_that_it_had(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *COARSE)
    server, device = tail_of(scenario), device_of(scenario)
    begin(scenario, device, 1, 0, sent(server, 1, 0))
    state = device.state()
    assert state is not None
    again = device_of(scenario)
    again.restore(state)
    assert isinstance(begin(scenario, again, 2, 1, sent(server, 2, 1)), Activations)


# Whole runs.


@pytest.mark.parametrize(
    "stragglers",
    [
        "{policy: wait_all}",
        "{policy: deadline, deadline_s: 50, minimum: 1}",
        "{policy: over_select, extra: 1}",
        "{policy: buffered, buffer: 2, max_staleness: 2}",
    ],
)
def test_nobody_is_sent_a_change_of_a_head_that_it_has_not(tmp_path: Path, stragglers: str) -> None:
    """Devices come and go, and messages are late; none is refused."""
    link = "{latency_ms: 50, jitter_ms: 40, loss: 0.1, uplink_kbps: 50}"
    presence = "{pattern: on_off, mean_on_s: 20, mean_off_s: 5}"
    fleet = f"fleet=[{{count: 4, link: {link}, availability: {presence}}}]"
    scenario = small_scenario(tmp_path, *COARSE, f"stragglers={stragglers}", fleet, "training.rounds=30")
    assert simulate(scenario, tmp_path / "run")["messages"]["rejected"] == 0


@settings(max_examples=3, deadline=None)
@given(every=st.sampled_from(["1", "2", "never"]), codec=st.sampled_from(["float16", "int8"]))
async def test_live_simulated_and_timed_runs_have_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, every: str, codec: str
) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    more = (f"training.gradients_every={every}", f"flows.head_state_down={{codec: {codec}}}")
    scenario = small_scenario(folder, "flows.head_since=last", *more, "training.rounds=6")
    live = await run_live(scenario, MemoryBroker().transport, folder / "live")
    for timing_only in (False, True):
        summary = simulate(scenario, folder / f"simulated-{timing_only}", timing_only=timing_only)
        assert [live["bytes"][flow] for flow in FLOWS] == [summary["bytes"][flow] for flow in FLOWS]
        assert summary["messages"]["rejected"] == live["messages"]["rejected"] == 0


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        (
            "flows.head_state_down={codec: float32}",
            "head_state_down: head_since last does not go with float32",
        ),
        ("fleet.0.cut=4", "head_since: last goes with whole heads: leave cut out of the fleet"),
        (
            "flows={head_since: last, own_rows: true, head_state_down: {codec: touched_rows}}",
            "own_rows: head_since last does not go with own_rows",
        ),
    ],
)
def test_what_it_does_not_go_with_is_told(tmp_path: Path, setting: str, problem: str) -> None:
    with pytest.raises(ScenarioError, match=problem):
        small_scenario(tmp_path, "flows.head_since=last", setting)


def test_devices_and_server_must_agree_upon_it(tmp_path: Path) -> None:
    with_it, without = (small_scenario(tmp_path, *COARSE[first:]) for first in (0, 1))
    assert scenario_digest(with_it) != scenario_digest(without)
