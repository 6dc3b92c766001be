"""How a device connects and greets, computed at once: what a large fleet's set-up mostly is.

A device that has subscribed hears that it did, and the state of the run. To the one it says that it is there,
to the other it greets. Nothing else is said on its links until then, or it comes after that: so all times
follow from the moment in which it subscribed. Only what arrives at the server is left to happen.
"""

from broker.machine.actions import Online, Publish, Received
from broker.wire.messages import RunState
from edge_client.actions import ClientAction
from sim.network.broker import SUBACK_BYTES, VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import InFlight
from sim.simulation.ahead.device import Device

LATEST_S = 20.0
"""A device must have greeted well before a round may begin without it, see Plan.join_s: what it has sent is
counted at once, and a round's row of metrics has what was sent until then."""

_TIMES_AS_LONG = 10
"""Jitter makes a greeting longer than the mean times one way say; so much longer is not seen."""


def can_greet(device: Device, state: InFlight, now_s: float) -> bool:
    """Say whether it connects for the first time, to a run that gathers, and on quick links."""
    message, endpoint = state.publish.message, device.endpoint
    usual_s = 2 * (device.up.latency_s + device.down.latency_s)
    return (
        isinstance(message, RunState)
        and message.phase == "gathering"
        and endpoint.connection == 0
        and endpoint.unsent is None
        and now_s + _TIMES_AS_LONG * usual_s < LATEST_S
    )


def greet(device: Device, state: InFlight, broker: VirtualBroker, clock: Clock) -> bool:
    """Let a device connect, hear the state of the run, and greet; true."""
    endpoint, core, up, down = device.endpoint, device.core, device.up, device.down
    now_s = clock.now
    connected_s = down.carry(now_s, SUBACK_BYTES).arrival_s
    admitted_s = endpoint.window.admit(now_s, waits=state.pubacks > 0)
    assert admitted_s == now_s  # nothing was sent to it yet
    told = down.carry(now_s, state.wire_bytes)
    endpoint.window.sent(told.arrival_s + down.latency_s)
    endpoint.online, endpoint.connection = True, 1
    status = _said(core.handle(Online(1), connected_s))
    appears = broker.put_in_flight(status)
    appeared = up.carry(connected_s, appears.wire_bytes)
    up.acknowledge(told.start_s, told.arrival_s, state.pubacks)
    heard = Received("", state.publish.message, state.wire_bytes)
    hello = _said(core.handle(heard, told.arrival_s))
    greets = broker.put_in_flight(hello)
    greeted = up.carry(told.arrival_s, greets.wire_bytes)
    down.acknowledge(appeared.start_s, appeared.arrival_s, appears.pubacks)
    down.acknowledge(greeted.start_s, greeted.arrival_s, greets.pubacks)
    endpoint.until_s = max(told.arrival_s, greeted.arrival_s)
    for at_s, sent_bytes, received_bytes in sorted(
        (
            (told.arrival_s, state.on_link.back, state.on_link.there),
            (appeared.arrival_s, *appears.on_link),
            (greeted.arrival_s, *greets.on_link),
        )
    ):
        endpoint.counts(sent_bytes, received_bytes, at_s)
    for in_flight, at_s in ((appears, appeared.arrival_s), (greets, greeted.arrival_s)):
        received = Received(endpoint.client, in_flight.publish.message, in_flight.wire_bytes)
        clock.at(at_s, broker.to_server, received)
    return True


def _said(actions: list[ClientAction]) -> Publish:
    """Give the one message that is all that is asked for."""
    (publish,) = actions
    assert isinstance(publish, Publish)
    return publish
