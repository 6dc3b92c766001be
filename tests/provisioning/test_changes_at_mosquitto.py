"""What becomes of members at a Mosquitto that runs when their fleet changes: it is told by SIGHUP."""

import asyncio
import ipaddress
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from broker.errors import RefusedError
from broker.provisioning.fleet import Fleet
from broker.provisioning.members import Run
from broker.transports.base import Frame
from broker.transports.mqtt import MqttTransport
from broker.urls import Address
from tests.provisioning.fleets import access_of, broker_of, children_of, free_port, make_fleet


@contextmanager
def running(folder: Path, *, by_password: bool) -> Iterator[tuple[Fleet, subprocess.Popen[bytes]]]:
    fleet = make_fleet(folder / "fleet", by_password=by_password, port=free_port())
    with broker_of(fleet, "mosquitto", folder / "data") as process:
        yield fleet, process


async def reload(process: subprocess.Popen[bytes]) -> None:
    (mosquitto,) = children_of(process)
    os.kill(mosquitto, signal.SIGHUP)
    await asyncio.sleep(0.3)


def client(fleet: Fleet, user: str, *subscriptions: str) -> MqttTransport:
    return MqttTransport(
        access_of(fleet, user), client_id="x", subscriptions=subscriptions, connect_timeout_s=5
    )


@asynccontextmanager
async def heard(fleet: Fleet) -> AsyncIterator[list[str]]:
    """Collect what the operator hears, up to what it says itself at the end."""
    topics: list[str] = []
    async with client(fleet, "operator.main", "fl/#") as operator:
        yield topics
        await operator.publish("fl/end", b"x")
        async for event in operator.events():
            if isinstance(event, Frame):
                if event.topic == "fl/end":
                    return
                topics.append(event.topic)


def ipv6_addresses() -> list[str]:
    """Give the loopback address, and one with a zone if a network interface here has one."""
    table = Path("/proc/net/if_inet6")
    rows = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    local = [
        f"{ipaddress.IPv6Address(int(row[0], 16))}%{row[5]}" for row in rows if row[0].startswith("fe80")
    ]
    return [*(["::1"] if rows else []), *local[:1]]


UP = {name: f"fl/3/first/u/{name}" for name in ("pi-07", "pi-08", "pi-09")}


@pytest.mark.usefixtures("mosquitto_program")
@pytest.mark.parametrize("by_password", [False, True])
async def test_who_is_revoked_is_out_at_once_and_cannot_come_back(
    tmp_path: Path, *, by_password: bool
) -> None:
    with running(tmp_path, by_password=by_password) as (fleet, process):
        async with client(fleet, "pi-08") as other:
            kept = access_of(fleet, "pi-07")
            if kept.certificate:
                copies = [
                    Path(path.rename(tmp_path / path.name)) for path in (kept.certificate, kept.key) if path
                ]
                kept = type(kept)(kept.brokers, tmp_path / "fleet/ca/ca.crt", *copies)
            else:
                kept = type(kept)(kept.brokers, tmp_path / "fleet/ca/ca.crt")
            async with MqttTransport(kept, client_id="x", subscriptions=[], connect_timeout_s=5) as device:
                async with heard(fleet) as before:
                    await device.publish(UP["pi-07"], b"x")
                fleet.revoke("pi-07")
                await reload(process)
                async with heard(fleet) as after:
                    saying = asyncio.create_task(device.publish(UP["pi-07"], b"x"))
                    await other.publish(UP["pi-08"], b"x")
                    await asyncio.wait({saying}, timeout=2)
                saying.cancel()
                await asyncio.gather(saying, return_exceptions=True)
            assert before == [UP["pi-07"]]
            assert after == [UP["pi-08"]]
            with pytest.raises(
                RefusedError, match="not authorized" if by_password else "certificate revoked"
            ):
                await MqttTransport(kept, client_id="x", subscriptions=[], connect_timeout_s=5).__aenter__()
            assert other.stats.connections == 1


@pytest.mark.usefixtures("mosquitto_program")
@pytest.mark.parametrize("by_password", [False, True])
async def test_who_is_new_is_let_in(tmp_path: Path, *, by_password: bool) -> None:
    with running(tmp_path, by_password=by_password) as (fleet, process):
        fleet.add("pi-09")
        fleet.rotate(["pi-08"])
        await reload(process)
        async with heard(fleet) as topics, client(fleet, "pi-09") as new, client(fleet, "pi-08") as again:
            await new.publish(UP["pi-09"], b"x")
            await again.publish(UP["pi-08"], b"x")
        assert topics == [UP["pi-09"], UP["pi-08"]]


@pytest.mark.usefixtures("mosquitto_program")
@pytest.mark.parametrize("host", ipv6_addresses())
async def test_an_ipv6_address_is_reached_and_trusted_with_its_zone(tmp_path: Path, host: str) -> None:
    address = Address(host, free_port(), tls=True)
    fleet = Fleet.create(
        tmp_path / "fleet",
        name="f",
        brokers=[str(address)],
        by_password=False,
        runs=[Run("first", ["pi-08"])],
    )
    with broker_of(fleet, "mosquitto", tmp_path / "data", f"--host={host}"):
        async with heard(fleet) as topics, client(fleet, "pi-08") as device:
            await device.publish(UP["pi-08"], b"x")
    assert topics == [UP["pi-08"]]


@pytest.mark.usefixtures("mosquitto_program")
async def test_a_new_broker_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    with running(tmp_path, by_password=False) as (fleet, process):
        async with client(fleet, "pi-08"):
            fleet.rotate_broker()
            await reload(process)
        async with heard(fleet) as topics, client(fleet, "pi-08") as device:
            await device.publish(UP["pi-08"], b"x")
        assert topics == [UP["pi-08"]]


@pytest.mark.usefixtures("mosquitto_program")
async def test_an_old_certificate_stays_valid_unless_it_is_revoked(tmp_path: Path) -> None:
    with running(tmp_path, by_password=False) as (fleet, process):
        for at_once in (False, True):
            old = access_of(fleet, "pi-07")
            assert old.certificate is not None
            assert old.key is not None
            copies = [tmp_path / "old.crt", tmp_path / "old.key"]
            for path, copy in zip((old.certificate, old.key), copies, strict=True):
                copy.write_bytes(path.read_bytes())
            stale = type(old)(old.brokers, old.ca_file, *copies)
            fleet.rotate(["pi-07"], at_once=at_once)
            await reload(process)
            transport = MqttTransport(stale, client_id="x", subscriptions=[], connect_timeout_s=5)
            if at_once:
                with pytest.raises(RefusedError, match="certificate revoked"):
                    await transport.__aenter__()
            else:
                async with transport:
                    pass
