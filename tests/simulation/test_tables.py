"""A device that lies down and is woken is what it was."""

import numpy as np
import pytest

from broker.wire.messages import Hello
from edge_client.core import ClientCore
from scenarios.schema.links import link_of
from scenarios.schema.network import BrokerModel
from sim.chrome_trace import Trace
from sim.network.broker_queues import Window
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint, NetworkStats
from sim.network.links.changing_link import links_of
from sim.simulation.ahead.device import Device, Keeper
from sim.simulation.ahead.tables import Tables
from sim.simulation.devices import Computer
from sim.simulation.fleet.device_model import SlowdownSampler, Work

NOW_S = 100.0


class NoKeeper(Keeper):
    """Is not asked."""

    def rests(self, number: int) -> bool:
        raise AssertionError(number)

    def wake(self, number: int) -> None:
        raise AssertionError(number)


def device(*pubacks_s: float) -> Device:
    """Give a device that has heard and sent a little, and whose latest PUBACKs come at these times."""
    up, down = links_of(link_of("lte"), seed=3, owner="c0")
    endpoint = Endpoint("c0", up, down, Window(BrokerModel()), leaves=False, lane=None)
    for link in (up, down):
        link.carry(98.0, 40_000)
    endpoint.subscribed = endpoint.online = True
    endpoint.active_s = 98.0
    endpoint.counts(4_000, 300, 99.0)
    for puback_s in pubacks_s:
        endpoint.window.sent(puback_s)
    no_work = Work(start=(), learn=(), finish=())
    slowdown = SlowdownSampler(None, seed=3, client="c0")
    computer = Computer(Clock(), lambda job: job, no_work, slowdown, Trace(()), None)  # type: ignore[arg-type,return-value]
    computer.busy_s, endpoint.until_s = 7.5, 99.5
    return Device(NoKeeper(), 0, endpoint, ClientCore("run", "c0", Hello(0, "digest", 5)), computer, print)


@pytest.mark.parametrize(
    "pubacks_s", [(), (99.0,), (101.0,), (99.0, 101.0), (101.0, 102.0), (98.0, 101.0, 102.0)]
)
def test_it_has_the_same_links_bytes_and_pubacks_under_way(pubacks_s: tuple[float, ...]) -> None:
    as_it_was, woken = device(*pubacks_s), device(*pubacks_s)
    assert woken.may_rest(NOW_S)
    tables = Tables(1, NetworkStats(), BrokerModel())
    tables.take(np.array([0]), [woken], NOW_S)
    other = woken.endpoint
    other.window.reset()
    other.sent_bytes = other.received_bytes = 0
    other.active_s = other.until_s = woken.computer.busy_s = 0.0
    for link in (woken.up, woken.down):
        link.carry(NOW_S, 500_000)
    tables.give(0, woken, NOW_S)
    same = as_it_was.endpoint
    assert other.window.awaited(NOW_S) == [at_s for at_s in pubacks_s if at_s > NOW_S]
    assert (other.sent_bytes, other.received_bytes) == (same.sent_bytes, same.received_bytes) == (4_000, 300)
    assert (other.active_s, other.until_s, woken.computer.busy_s) == (same.active_s, 99.5, 7.5)
    for link, before in ((woken.up, as_it_was.up), (woken.down, as_it_was.down)):
        assert link.carry(101.0, 40_000) == before.carry(101.0, 40_000)


def test_it_does_not_lie_down_while_more_pubacks_are_under_way_than_a_row_has_place_for() -> None:
    assert not device(101.0, 102.0, 103.0).may_rest(NOW_S)
