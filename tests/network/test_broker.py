"""The broker in virtual time: what it says of clients that vanish and come back."""

import msgspec

from broker.machine.actions import Publish, Received
from broker.wire import topics
from broker.wire.chunks import wire_bytes
from broker.wire.link_bytes import HEADER_BYTES, PING, connection_on_link, message_on_link
from broker.wire.messages import Ask, HeadUpdate, Message, Progress, Standing, Status
from broker.wire.packing import encoded_bytes
from scenarios.schema.links import Link
from scenarios.schema.network import BrokerModel
from sim.chrome_trace import Trace
from sim.network.broker import VirtualBroker
from sim.network.broker_queues import Window
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint
from sim.network.links.changing_link import links_of


def broker_with(
    clock: Clock, model: BrokerModel, *, latency_ms: float = 0.0
) -> tuple[VirtualBroker, Endpoint]:
    """Give a broker with one client; nothing else takes time."""
    up, down = links_of(Link(latency_ms=latency_ms), seed=0, owner="c0")
    client = Endpoint("c0", up, down, Window(model), leaves=True, lane=None)
    server_up, server_down = links_of(Link(), seed=0, owner="server")
    broker = VirtualBroker(
        clock, model, run="r", server_up=server_up, server_down=server_down, trace=Trace(())
    )
    broker.add(client)
    return broker, client


def statuses(broker: VirtualBroker, clock: Clock) -> list[tuple[float, bool]]:
    """Let time pass; give when the server heard that the client is there or away."""
    heard = list[tuple[float, bool]]()

    def note(received: Received) -> None:
        assert isinstance(received.message, Status)
        heard.append((clock.now, received.message.online))

    broker.to_server = note
    clock.run()
    return heard


def test_a_vanished_clients_last_will_is_said_after_one_and_a_half_keepalives() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(keepalive_s=10))
    clock.at(1.0, broker.connect, client)
    clock.at(2.0, broker.lose, client)
    assert statuses(broker, clock) == [(17.0, False)]


def test_a_new_connection_takes_over_and_the_old_ones_last_will_is_said_then() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(keepalive_s=10), latency_ms=100)
    clock.at(1.0, broker.connect, client)
    clock.at(2.0, broker.lose, client)  # would be noticed at 17
    clock.at(3.0, broker.connect, client)  # its SUBSCRIBE is there after five ways
    clock.at(5.0, broker.lose, client)
    assert statuses(broker, clock) == [(3.5, False), (20.0, False)]


def test_a_will_is_said_once() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(keepalive_s=10))
    clock.at(1.0, broker.connect, client)
    clock.at(2.0, broker.lose, client)
    clock.at(30.0, broker.connect, client)  # the broker has noticed at 17
    assert statuses(broker, clock) == [(17.0, False)]


def test_the_link_of_a_silent_device_carries_its_connection_and_pings() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(keepalive_s=10))
    client.keepalive_s = 10.0
    clock.at(1.0, broker.connect, client)
    clock.at(36.0, broker.lose, client)  # pings at 11, 21 and 31
    clock.at(80.0, lambda: None)
    statuses(broker, clock)
    client.count_pings(clock.now)
    will = topics.status("r", "c0"), encoded_bytes(Status(online=False, session=1))
    there, back = connection_on_link("r-c0", topics.client_subscriptions("r", "c0"), will)
    assert (client.sent_bytes, client.received_bytes) == (there + 3 * PING.there, back + 3 * PING.back)


def test_a_link_carries_a_message_with_its_answer_and_no_ping_in_a_lively_exchange() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(keepalive_s=10))
    client.keepalive_s = 10.0
    clock.at(0.0, broker.connect, client)
    said = Publish(topics.up("r", "c0"), Progress(1, 0, 1, 0, Standing.WORKING))
    told = Publish(topics.down("r", "c0"), Ask(1, 0, 1, 0))
    clock.at(9.0, broker.publish, client, said)
    clock.at(18.0, broker.publish_from_server, told)
    clock.at(27.0, lambda: None)
    before = list[tuple[int, int]]()
    clock.at(1.0, lambda: before.append((client.sent_bytes, client.received_bytes)))
    broker.to_server = lambda _received: None
    clock.run()
    client.count_pings(clock.now)
    up, down = (message_on_link(wire_bytes(each.topic, encoded_bytes(each.message))) for each in (said, told))
    [(sent, received)] = before
    assert client.sent_bytes - sent == up.there + down.back
    assert client.received_bytes - received == down.there + up.back


SMALL, LARGE = (HeadUpdate(1, 1, 1, 20, 0.5, bytes(size)) for size in (4000, 5000))


def test_a_small_message_of_a_round_has_no_packet_identifier_and_no_answer_on_the_link() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel())
    heard = list[int]()
    broker.to_server = lambda received: heard.append(received.wire_bytes)
    clock.at(0.0, broker.connect, client)
    before = list[int]()
    clock.at(1.0, lambda: before.append(client.received_bytes))
    clock.at(2.0, broker.publish, client, Publish(topics.up("r", "c0"), SMALL))
    clock.run()
    size = wire_bytes(topics.up("r", "c0"), encoded_bytes(SMALL), qos=0)
    assert heard == [size] == [wire_bytes(topics.up("r", "c0"), encoded_bytes(SMALL)) - 2]
    assert client.received_bytes - before[0] == message_on_link(size, qos=0).back == 3 * HEADER_BYTES


def test_a_lost_connection_takes_a_small_message_with_it_and_no_other() -> None:
    clock = Clock()
    broker, client = broker_with(clock, BrokerModel(), latency_ms=100)
    heard = list[Message]()
    broker.to_server = lambda received: heard.append(received.message)
    clock.at(0.0, broker.connect, client)
    for message in (SMALL, LARGE):
        clock.at(2.0, broker.publish, client, Publish(topics.up("r", "c0"), message))
    clock.at(2.05, broker.lose, client)
    waits = msgspec.structs.replace(SMALL, attempt=2)
    clock.at(2.5, broker.publish, client, Publish(topics.up("r", "c0"), waits))  # it is not under way yet
    clock.at(3.0, broker.connect, client)
    clock.run()
    assert [each for each in heard if isinstance(each, HeadUpdate)] == [LARGE, waits]
    assert broker.network_stats.lost == 2
    assert not client.unsent
