"""The broker in virtual time: what it says of clients that vanish and come back."""

from broker.machine.actions import Received
from broker.wire.messages import Status
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
        clock,
        model,
        run="r",
        endpoints={"c0": client},
        server_up=server_up,
        server_down=server_down,
        trace=Trace(()),
    )
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
