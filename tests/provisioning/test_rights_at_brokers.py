"""What each member of a fleet may do at a real broker that was started with the fleet's files.

Every test runs with Mosquitto and the embedded broker, with certificates and with passwords.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from broker.errors import BrokerError, RefusedError
from broker.provisioning.fleet import Fleet
from broker.servers.spawn import Kind
from broker.transports.access import Access
from broker.transports.base import Disconnected, Frame, Transport, Will
from broker.transports.mqtt import MqttTransport
from tests.provisioning.fleets import access_of, broker_of, free_port, make_fleet

GRADIENT, MINE = "fl/3/first/d/pi-08", "fl/3/first/d/pi-07"
NOT_TAKEN = {"mosquitto": "refuses our certificate", "embedded": "hangs up"}
"""What a client can say when its certificate is not taken: asyncio's TLS closes without giving a reason."""

MARK = "fl/3/first/u/pi-07"


class Place(NamedTuple):
    """A fleet whose broker runs."""

    fleet: Fleet
    kind: Kind
    by_password: bool

    def connect(
        self,
        user: str,
        *subscriptions: str,
        client_id: str = "any",
        will: Will | None = None,
        patience_s: float = 5,
        **changes: object,
    ) -> MqttTransport:
        return MqttTransport(
            access_of(self.fleet, user, **changes),
            client_id=client_id,
            subscriptions=subscriptions,
            will=(lambda _: will) if will else None,
            connect_timeout_s=patience_s,
        )


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def kind(request: pytest.FixtureRequest) -> Kind:
    if request.param == "mosquitto":
        request.getfixturevalue("mosquitto_program")
    which: Kind = request.param
    return which


@pytest.fixture(scope="module", params=["certificate", "password"])
def place(
    kind: Kind, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("fleet")
    by_password = request.param == "password"
    fleet = make_fleet(folder / "fleet", by_password=by_password, port=free_port())
    with broker_of(fleet, kind, folder / "data"):
        yield Place(fleet, kind, by_password)


async def frames(transport: Transport) -> AsyncIterator[str]:
    """Give the topics of what comes."""
    async with asyncio.timeout(10):
        async for event in transport.events():
            if isinstance(event, Frame):
                yield event.topic


async def until(transport: Transport, mark: str) -> list[str]:
    """Give the topics of what comes, up to and without a mark."""
    topics: list[str] = []
    async with asyncio.timeout(10):
        async for event in transport.events():
            assert not isinstance(event, Disconnected)
            if isinstance(event, Frame):
                if event.topic == mark:
                    return topics
                topics.append(event.topic)
    raise AssertionError("the events have ended")


@contextlib.asynccontextmanager
async def heard_by_the_operator(
    place: Place, user: str, mark: str
) -> AsyncIterator[tuple[MqttTransport, list[str]]]:
    """Give a member's transport, and what the operator hears of what it says meanwhile."""
    heard: list[str] = []
    async with place.connect("operator.main", "fl/#") as operator, place.connect(user) as member:
        yield member, heard
        await member.publish(mark, b"mark")
        heard += await until(operator, mark)


async def test_a_device_says_what_is_its_own(place: Place) -> None:
    async with heard_by_the_operator(place, "pi-07", MARK) as (device, heard):
        for run in ("first", "second"):
            await device.publish(f"fl/3/{run}/status/pi-07", b"x")
            if run != "first":
                await device.publish(f"fl/3/{run}/u/pi-07", b"x")
    assert heard == ["fl/3/first/status/pi-07", "fl/3/second/status/pi-07", "fl/3/second/u/pi-07"]


@pytest.mark.parametrize(
    "topic",
    [
        "fl/3/first/u/pi-08",  # as another
        "fl/3/first/status/pi-08",
        "fl/3/first/state",  # as the server
        "fl/3/first/scenario",
        "fl/3/first/server",
        "fl/3/first/d/pi-08",
        "fl/3/first/d/pi-07",
        "fl/3/first/watch/metric",
        "fl/4/first/state",
        "fl/3/third/u/pi-07",  # in a run that is not the fleet's
        "fl/3/third/state",
        "fl/3/first/u/server.first",
        "fl/3/first/u/pi-07/x",
        "elsewhere",
    ],
)
async def test_a_device_says_nothing_else(place: Place, topic: str) -> None:
    async with heard_by_the_operator(place, "pi-07", MARK) as (device, heard):
        await device.publish(topic, b"x", retain=True)
    assert heard == []


READABLE = [
    "fl/3/first/state", "fl/4/first/state", "fl/3/first/scenario", "fl/3/first/watch/metric",
    "fl/3/second/state",
]  # fmt: skip
SECRET = [
    GRADIENT, "fl/3/first/u/pi-08", "fl/3/first/u/pi-07", "fl/3/first/status/pi-08", "fl/3/first/server",
    "fl/3/first/watch/run", "fl/3/third/watch/metric", "fl/3/third/state", "fl/3/third/scenario",
    "fl/3/third/d/pi-07",
]  # fmt: skip


async def say(place: Place, topics: list[str], *, retain: bool) -> None:
    async with place.connect("operator.main") as operator:
        for topic in topics:
            await operator.publish(topic, b"x", retain=retain)


async def test_a_device_hears_its_own_gradients_and_what_is_for_all(place: Place) -> None:
    async with place.connect("pi-07", "fl/#") as device:
        await say(place, [*SECRET, *READABLE, *SECRET, MINE], retain=False)
        assert await until(device, MINE) == READABLE


async def test_a_device_hears_no_more_of_what_the_broker_keeps(place: Place) -> None:
    kept = [*SECRET, *READABLE]
    await say(place, kept, retain=True)
    try:
        async with place.connect("pi-07", "fl/#") as device:
            heard = [await anext(frames(device)) for _ in READABLE]
            assert sorted(heard) == sorted(READABLE)
            await say(place, [MINE], retain=False)
            assert await until(device, MINE) == []
    finally:
        async with place.connect("operator.main") as operator:
            for topic in kept:
                await operator.publish(topic, b"", retain=True)


@pytest.mark.parametrize("topic", [GRADIENT, "fl/3/third/state", "fl/3/first/watch/#", "fl/3/first/u/+"])
async def test_a_subscription_to_what_is_anothers_brings_nothing(place: Place, topic: str) -> None:
    try:
        async with place.connect("pi-07", topic, MINE) as device:
            await say(place, [topic.replace("+", "pi-08").replace("#", "x"), MINE], retain=False)
            assert await until(device, MINE) == []
    except RefusedError:
        if place.kind == "mosquitto":  # it takes every subscription
            raise


async def test_a_device_that_may_not_hear_the_metric_takes_part_without(place: Place) -> None:
    async with place.connect("pi-07", "fl/3/third/watch/metric", MINE) as device:
        await say(place, ["fl/3/third/watch/metric", MINE], retain=False)
        assert await until(device, MINE) == []


async def test_a_server_hears_and_says_what_is_its_runs(place: Place) -> None:
    subscriptions = ["fl/3/first/u/+", "fl/+/first/status/+", "fl/3/first/state", "fl/3/first/server"]
    async with place.connect("server.first", *subscriptions) as server, place.connect("pi-07") as device:
        await device.publish("fl/3/first/status/pi-07", b"x")
        await device.publish(MARK, b"x")
        assert await until(server, MARK) == ["fl/3/first/status/pi-07"]
    own = ["scenario", "state", "server", "d/pi-07", "watch/metric"]
    async with heard_by_the_operator(place, "server.first", "fl/3/first/d/pi-08") as (server, heard):
        for kind in own:
            await server.publish(f"fl/3/first/{kind}", b"x")
        for topic in ["fl/3/second/state", "fl/3/second/d/pi-07", "fl/3/first/u/pi-07", "fl/3/x/watch/y"]:
            await server.publish(topic, b"x")
    assert heard == [f"fl/3/first/{kind}" for kind in own]


async def test_an_observer_sees_what_is_for_it_and_says_nothing(place: Place) -> None:
    shown = ["fl/3/first/watch/metric", "fl/3/first/state"]
    hidden = [GRADIENT, "fl/3/first/scenario", "fl/3/first/u/pi-07", "fl/3/first/status/pi-07"]
    last = "fl/3/second/watch/end"
    async with place.connect("observer.main", "fl/#") as observer:
        await say(place, [*hidden, *shown, last], retain=False)
        assert await until(observer, last) == shown
        async with place.connect("operator.main", "fl/#") as operator:
            for topic in (*shown, "fl/3/first/u/observer.main", "fl/3/first/server"):
                await observer.publish(topic, b"x")
            await say_as_device(place)
            assert await until(operator, MARK) == []


async def say_as_device(place: Place) -> None:
    async with place.connect("pi-07") as device:
        await device.publish(MARK, b"x")


@pytest.mark.parametrize("other", ["server.first", "pi-08", "operator.main"])
async def test_nobody_ends_anothers_connection_by_its_name(place: Place, other: str) -> None:
    listens = {"server.first": MARK, "pi-08": GRADIENT, "operator.main": "fl/#"}[other]
    async with place.connect(other, listens, client_id=other) as victim:
        async with place.connect("pi-07", client_id=other) as thief:
            await thief.publish(MARK, b"x")
        await say(place, [GRADIENT], retain=False) if other == "pi-08" else None
        assert await until(victim, GRADIENT if other == "pi-08" else MARK) == []
        assert victim.stats.connections == 1


async def test_a_last_will_in_anothers_name_is_not_said(place: Place) -> None:
    will = Will("fl/3/first/status/pi-08", b"off", retain=True)
    async with place.connect("operator.main", "fl/#") as operator:
        with contextlib.suppress(RefusedError, InterruptedError):
            async with place.connect("pi-07", will=will):
                raise InterruptedError  # leaves without a goodbye: the broker would say the will
        await asyncio.sleep(0.2)
        await say_as_device(place)
        assert await until(operator, MARK) == []


async def test_a_last_will_of_ones_own_is_said(place: Place) -> None:
    will = Will("fl/3/first/status/pi-07", b"off", retain=False)
    async with place.connect("operator.main", "fl/#") as operator:
        with contextlib.suppress(InterruptedError):
            async with place.connect("pi-07", will=will):
                raise InterruptedError
        assert await until(operator, will.topic) == []


async def refused(transport: MqttTransport) -> str:
    with pytest.raises(BrokerError) as caught:
        async with asyncio.timeout(8), transport:
            pass
    return str(caught.value)


async def test_who_proves_nothing_is_not_let_in_and_told_why(place: Place) -> None:
    access = access_of(place.fleet, "pi-07", username="pi-07", password="wrong")
    stranger = Access(access.brokers, access.ca_file)
    words = await refused(MqttTransport(stranger, client_id="pi-07", subscriptions=[], connect_timeout_s=1))
    assert ("refuses us" if place.by_password else NOT_TAKEN[place.kind]) in words
    assert "wrong" not in words
    nobody = Access(access_of(place.fleet, "pi-07", username=None, password=None).brokers, access.ca_file)
    words = await refused(MqttTransport(nobody, client_id="pi-07", subscriptions=[], connect_timeout_s=1))
    assert ("refuses us" if place.by_password else NOT_TAKEN[place.kind]) in words


async def test_the_certificate_counts_and_not_the_name_that_is_given(place: Place) -> None:
    if place.by_password:
        pytest.skip("with passwords the name is proven by the password")
    async with (
        heard_by_the_operator(place, "pi-07", MARK) as (_, heard),
        place.connect("pi-08", username="server.first", password="x") as device,
    ):
        await device.publish("fl/3/first/state", b"x")
    assert heard == []


async def test_members_of_another_fleet_are_strangers(place: Place, tmp_path: Path) -> None:
    other = make_fleet(tmp_path / "other", by_password=place.by_password)
    theirs, ours = access_of(other, "pi-07"), access_of(place.fleet, "pi-07")
    port = ours.brokers[0].port
    cross = access_of(other, "pi-07", port=port)
    cross = Access(cross.brokers, ours.ca_file, theirs.certificate, theirs.key)
    assert ("refuses us" if place.by_password else NOT_TAKEN[place.kind]) in await refused(
        MqttTransport(cross, client_id="a", subscriptions=[], connect_timeout_s=1)
    )
    assert "is not trusted" in await refused(
        MqttTransport(
            access_of(other, "pi-07", port=port), client_id="a", subscriptions=[], connect_timeout_s=5
        )
    )


async def test_a_device_cannot_pass_for_the_broker(place: Place) -> None:
    if place.by_password:
        pytest.skip("it has no certificate")
    folder = place.fleet.bundle_folder("pi-07")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "client.crt", folder / "client.key")

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    try:
        port = server.sockets[0].getsockname()[1]
        words = await refused(place.connect("pi-08", port=port))
        assert "is not trusted" in words
    finally:
        server.close()


async def test_without_tls_there_is_no_way_in(place: Place) -> None:
    plain = place.connect("pi-07", tls=False, patience_s=0.5)
    assert "no MQTT broker" in await refused(plain)
