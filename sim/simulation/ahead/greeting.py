"""How devices connect and greet, computed at once: what a large fleet's set-up mostly is.

A device that has subscribed hears that it did, and the state of the run. To the one it says that it is there,
to the other it greets. Nothing else is said on its links until then, or it comes after that: so all times
follow from the moment in which it subscribed. Only what arrives at the server is left to happen.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from operator import itemgetter

import numpy as np

from broker.machine.actions import Online, Publish, Received
from broker.wire import topics
from broker.wire.link_bytes import connection_on_link
from broker.wire.messages import RunState, Status
from broker.wire.packing import encoded_bytes
from edge_client.actions import ClientAction
from sim.network.broker import SUBACK_BYTES, VirtualBroker
from sim.network.clock import Clock
from sim.network.endpoint import InFlight
from sim.simulation.ahead.device import Line
from sim.simulation.ahead.rest import Rest
from sim.simulation.ahead.states import State, state_of

LATEST_S = 20.0
"""A device must have greeted well before a round may begin without it, see Plan.join_s: what it has sent is
counted at once, and a round's row of metrics has what was sent until then."""

_TIMES_AS_LONG = 10
"""Jitter makes a greeting longer than the mean times one way say; so much longer is not seen."""


def can_greet(line: Line, state: InFlight | None, now_s: float) -> bool:
    """Say whether devices connect to a run that gathers, and on quick links."""
    usual_s = 2 * (line.up.latency_s + line.down.latency_s)
    return (
        state is not None
        and isinstance(state.publish.message, RunState)
        and state.publish.message.phase == "gathering"
        and now_s + _TIMES_AS_LONG * usual_s < LATEST_S
    )


def greet(rest: Rest, numbers: Sequence[int], state: InFlight, broker: VirtualBroker, clock: Clock) -> None:
    """Let devices on one kind of link connect for the first time, hear the state of the run, and greet.

    Args:
        rest: has them from now on.
        numbers: of the devices.
        state: of the run.
        broker: takes what they say.
        clock: virtual time; they are subscribed now.
    """
    greetings: dict[int, tuple[InFlight, State]] = {}  # by what a device says of itself: many say the same
    alike: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number in numbers:
        hello = id(rest.hello_of(number))
        if hello not in greetings:
            greeting, after = _say(rest, number, state)
            greetings[hello] = broker.put_in_flight(greeting), after
        alike[len(rest.names[number]), greetings[hello][0].wire_bytes].append(number)
    said: list[tuple[float, Received]] = []
    for some in alike.values():
        own = [greetings[id(rest.hello_of(number))] for number in some]
        rest.begin(np.array(some), own[0][1])
        said += _greet(rest, some, state, [hello for hello, _ in own], broker, clock.now)
    said.sort(key=itemgetter(0))
    clock.in_turn((at_s, broker.to_server, (received,)) for at_s, received in said)


def _greet(
    rest: Rest,
    numbers: list[int],
    state: InFlight,
    hellos: list[InFlight],
    broker: VirtualBroker,
    now_s: float,
) -> Iterator[tuple[float, Received]]:
    """Let devices greet whose messages are equally long; give what they say, and when it arrives."""
    tables, columns, names = rest.tables, np.array(numbers), rest.names
    line, run, first, greets = rest.line_of(numbers[0]), rest.run, names[numbers[0]], hellos[0]
    will = topics.status(run, first), encoded_bytes(Status(online=False, session=1))
    cost = connection_on_link(f"{run}-{first}", topics.client_subscriptions(run, first), will)
    tables.connects(columns, cost, now_s)
    up, down = tables.up, tables.down
    began_s, left_s, connected_s = down.carry(columns, line.down, now_s, SUBACK_BYTES)
    down.links.occupy(columns, left_s - began_s)
    told_s = tables.sends(columns, line.down, now_s, state.wire_bytes)
    appears = broker.put_in_flight(Publish(topics.status(run, first), Status(online=True, session=1)))
    appeared_s = up.carry(columns, line.up, connected_s, appears.wire_bytes)
    up.links.acknowledge(columns, line.up, told_s[0], told_s[2], state.pubacks)
    greeted_s = up.carry(columns, line.up, told_s[2], greets.wire_bytes)
    for (from_s, sent_s, to_s), pubacks in ((appeared_s, appears.pubacks), (greeted_s, greets.pubacks)):
        up.links.occupy(columns, sent_s - from_s)
        down.links.acknowledge(columns, line.down, from_s, to_s, pubacks)
    tables.is_busy_until(columns, np.maximum(told_s[2], greeted_s[2]))
    times_s = np.stack((told_s[2], appeared_s[2], greeted_s[2]))
    order = np.argsort(times_s, axis=0)
    costs = np.array([(state.on_link.back, state.on_link.there), appears.on_link, greets.on_link])
    for which in order:
        sent, received = costs[which].T
        tables.counts(columns, sent, received, times_s[which, np.arange(len(columns))])
    arrivals = zip(numbers, hellos, appeared_s[2].tolist(), greeted_s[2].tolist(), strict=True)
    for number, hello, appeared_at_s, greeted_at_s in arrivals:
        for in_flight, at_s in ((appears, appeared_at_s), (hello, greeted_at_s)):
            yield at_s, Received(names[number], in_flight.publish.message, in_flight.wire_bytes)


def _say(rest: Rest, number: int, state: InFlight) -> tuple[Publish, State]:
    """Give how a device greets that connects and hears the state of the run; and its state after that."""
    core = rest.core_of(number)
    _only(core.handle(Online(1), 0.0))
    greeting = _only(core.handle(Received("", state.publish.message, state.wire_bytes), 0.0))
    return greeting, rest.known(state_of(core))


def _only(actions: list[ClientAction]) -> Publish:
    """Give the one message that is all that is asked for."""
    (publish,) = actions
    assert isinstance(publish, Publish)
    return publish
