"""The size of packets is the scenario's: over MQTT, in the byte counts, and in virtual time."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.machine.actions import Online, Publish
from broker.transports.base import Frame, Transport, packets_of
from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from broker.wire import chunks
from broker.wire.messages import Assignment
from broker.wire.packing import Scale, encoded_bytes, published, qos_of
from scenarios.errors import ScenarioError
from scenarios.schema.broker import BrokerSpec
from server_node.protocol.core import ServerCore
from server_node.vocabulary.ledger import CONTROL, Ledger
from sim.simulation.run import simulate
from tests import small_task
from tests.helpers import plan_of, small_scenario
from tests.live.test_live import run as run_live

BIG_BATCH = ("task.batch_size=300", "flows.activations_up={codec: float32}", "training.rounds=2")


def test_the_default_fits_all_common_brokers_and_smaller_ones_can_be_chosen(tmp_path: Path) -> None:
    assert small_scenario(tmp_path).broker.packet_bytes == chunks.MAX_PACKET_BYTES
    scenario = small_scenario(tmp_path, "broker.packet_bytes=60000")
    assert small_scenario(tmp_path, f"broker.packet_bytes={chunks.MIN_PACKET_BYTES}")
    assert plan_of(scenario, small_task.task()).packet_bytes == 60_000
    for wrong in (chunks.MIN_PACKET_BYTES - 1, chunks.MAX_PACKET_BYTES + 1):
        with pytest.raises(ScenarioError, match="packet_bytes"):
            small_scenario(tmp_path, f"broker.packet_bytes={wrong}")


def test_a_retained_message_has_one_packet_of_the_chosen_size() -> None:
    assert len(packets_of(bytes(9_000), 1, retain=False, limit=5_000)) == 2
    with pytest.raises(ValueError, match="at most 5000 can be kept"):
        packets_of(bytes(5_001), 1, retain=True, limit=5_000)


async def test_large_messages_travel_in_packets_of_the_chosen_size(broker_url: str, run_name: str) -> None:
    topic = f"{run_name}/x"
    async with (
        MqttTransport(broker_url, client_id=f"{run_name}-s", subscriptions=[topic]) as receiver,
        MqttTransport(broker_url, client_id=f"{run_name}-a", subscriptions=[], packet_bytes=5_000) as sender,
    ):
        await sender.publish(topic, bytes(20_000))
        async for event in receiver.events():
            if isinstance(event, Frame):
                assert event.payload == bytes(20_000)
                assert event.wire_bytes == chunks.wire_bytes(topic, 20_000, 5_000)
                assert event.wire_bytes > chunks.wire_bytes(topic, 20_000)
                break


def test_a_scale_counts_the_headers_of_small_packets_and_tells_messages_apart() -> None:
    heads = [Assignment(1, 1, 1, 1, 0.1, ([], [], [], []), bytes(size)) for size in (50_000, 100)]
    for limit in (5_000, chunks.MAX_PACKET_BYTES):
        scale = Scale(limit)
        for topic, sent in itertools.product(("t", "t", "longer"), (heads[0], heads[0], *heads)):
            size = encoded_bytes(sent)
            bytes_of = chunks.wire_bytes(topic, size, limit, qos_of(sent, size))
            assert scale.weigh(topic, sent) == published(topic, sent, limit)
            assert scale.weigh(topic, sent).wire_bytes == bytes_of


def test_the_server_counts_in_packets_of_the_chosen_size(tmp_path: Path) -> None:
    plan = replace(plan_of(small_scenario(tmp_path), small_task.task()), alone=True, scenario=bytes(50_000))
    counted = {}
    for limit in (4096, 128_000):
        ledger = Ledger()
        said = ServerCore(replace(plan, packet_bytes=limit), ledger).handle(Online(), 0.0)
        told = [action for action in said if isinstance(action, Publish)]
        counted[limit] = ledger.flows[CONTROL].wire_bytes
        assert counted[limit] == sum(published(each.topic, each.message, limit).wire_bytes for each in told)
    assert counted[4096] > counted[128_000]


def test_a_message_is_as_many_packets_as_it_is_cut_into() -> None:
    assert chunks.packets_in(20_000, 5_000) == 5
    assert chunks.packets_in(20_000, 128_000) == 1


def test_virtual_time_has_the_bytes_of_a_live_run_with_small_packets(tmp_path: Path) -> None:
    flows = []
    for limit in (4096, 128_000):
        scenario = small_scenario(
            tmp_path, "fleet=[{count: 1}]", "training.cohort=1", *BIG_BATCH, f"broker.packet_bytes={limit}"
        )
        flows.append(simulate(scenario, tmp_path / str(limit))["bytes"]["activations_up"])
    assert flows[0]["payload"] == flows[1]["payload"] > 4096
    assert flows[0]["wire"] > flows[1]["wire"]


def test_client_identifiers_fit_brokers_that_tie_them_to_the_user() -> None:
    assert BrokerSpec().client_id_of("run", "pi-7") == "run-pi-7"
    assert BrokerSpec(client_id="{name}").client_id_of("run", "pi-7") == "pi-7"


async def test_both_sides_connect_under_the_chosen_identifiers(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, 'broker.client_id="{name}"', "training.rounds=1")
    broker, seen = MemoryBroker(), []

    def connect(**options: Any) -> Transport:
        seen.append(options["client_id"])
        return broker.transport(**options)

    await run_live(scenario, connect, tmp_path / "run")
    assert sorted(seen) == ["c0", "c1", "c2", "c3", "server"]
