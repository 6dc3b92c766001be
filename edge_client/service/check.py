"""`fedlite edge check`: what a device needs, tried one after the other, each with what to do."""

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from broker.cli.console import command
from broker.errors import BrokerError, RunError
from broker.exits import Exit
from broker.installing.commands import opened
from broker.installing.service import EDGE
from broker.provisioning.bundle import read_bundle
from broker.transports.access import Access, Context
from broker.transports.probe import shake_hands
from broker.transports.validity import validity
from broker.urls import Address, parse_url
from broker.wire import topics
from edge_client import memory
from edge_client.service.broker_check import check_broker
from edge_client.service.findings import Device, Finding, failed, ok, skipped, worst

SPARE_BYTES = 150 * 2**20
"""Memory below which an edge does not work: of the machine, and free when nothing of fedlite runs."""

SOON = timedelta(days=30)


def check_device(device: Device, now: datetime | None = None, root: Path = Path("/")) -> Iterator[Finding]:
    """Check a device step by step; what cannot be tried because of an earlier failure is skipped.

    Args:
        device: what to check.
        now: time of its clock; None: ask it.
        root: where /proc is found.
    """
    yield check_memory(root)
    yield check_clock(device, now or datetime.now(UTC))
    try:
        context = device.access.context()
    except BrokerError as error:
        yield failed("certificates", str(error))
        return
    good: Address | None = None
    for address in device.access.brokers:
        found = list(check_way(address, context))
        yield from found
        if good is None and all(finding.verdict != "failed" for finding in found):
            good = address
    if good is None:
        for what in ("login", "access list", "packets", "task"):
            yield skipped(what, "no broker can be reached")
        return
    yield from check_broker(device, good, context)


def check_memory(root: Path = Path("/")) -> Finding:
    """Look whether torch fits: into what `fedlite edge` may use, and beside what runs now."""
    try:
        memory.check_memory(root)
    except memory.MemoryLimitError as error:
        return failed("memory", str(error))
    told = dict[str, int]()
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            name, _, amount = line.partition(":")
            told[name] = int(amount.split()[0]) * 1024
    if "MemTotal" not in told:
        return skipped("memory", "this system does not tell how much it has")
    total, free = told["MemTotal"], told.get("MemAvailable", 0)
    text = f"{total >> 20} MiB, {free >> 20} of them free"
    if free < SPARE_BYTES:
        return failed("memory", f"{text}: end other programs, or add swap")
    return ok("memory", text)


def check_clock(device: Device, now: datetime) -> Finding:
    """Compare the clock with what it cannot be before: the device's certificates and files.

    That it is too late can only be seen when a certificate seems to have expired. Without NTP nothing else
    says what time it is.
    """
    access = device.access
    earliest: list[tuple[datetime, str]] = []
    for file in filter(None, (access.ca_file, access.certificate)):
        try:
            first, last = validity(file.read_text("ascii"))
        except (OSError, ValueError) as error:
            return failed("clock", f"{file}: no certificate can be read from it: {error}")
        earliest.append((first, f"{file} is valid from then on"))
        if now > last:
            return failed(
                "clock",
                f"it says {_day(now)}, and {file} was valid until {_day(last)}: if the clock is right, "
                "`fedlite fleet rotate` makes a new one",
            )
    for file in (Path(__file__), *device.files):
        with suppress(OSError):
            written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            earliest.append((written, f"{file} was written then"))
    latest, why = max(earliest)
    if now < latest - timedelta(minutes=5):
        return failed(
            "clock",
            f"it says {_day(now)}, but it is {_day(latest)} or later ({why}): timedatectl set-ntp true",
        )
    return ok("clock", f"{_day(now)}, not before {_day(latest)}; whether it is fast is not known")


def check_way(address: Address, context: Context | None) -> Iterator[Finding]:
    """Look up a broker's name, connect, and shake hands."""
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        yield failed(
            "DNS",
            f"{address.host} has no address here ({error}): is the name right, is there a network?",
            Exit.UNREACHABLE,
        )
        return
    yield ok("DNS", f"{address.host} is {found[0][4][0]}")
    try:
        shown = shake_hands(address, context if address.tls else None)
    except ssl.SSLError as error:
        yield _tls_trouble(address, error)
    except OSError as error:
        yield failed(
            "connection",
            f"nobody listens at {address} ({error}): does the broker run, is a firewall in between?",
            Exit.UNREACHABLE,
        )
    else:
        yield _shown(address, shown.get("notAfter"))


def _shown(address: Address, until: object) -> Finding:
    if not address.tls:
        return ok("TLS", f"none at {address}: everybody in between can read along")
    if not isinstance(until, str):
        return ok("TLS", f"{address} is trusted")
    last = datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC)
    soon = "; that is soon: `fedlite fleet rotate --broker`" if last - datetime.now(UTC) < SOON else ""
    return ok("TLS", f"{address} is trusted, its certificate is valid until {_day(last)}{soon}")


_TLS_TROUBLE: Mapping[int, str] = {
    9: "its certificate is not valid yet: is this clock right? timedatectl set-ntp true",
    10: "its certificate has expired: `fedlite fleet rotate --broker`, or is this clock wrong?",
    62: "its certificate is of another name: use the name that the certificate has in the URL",
    64: "its certificate is of another address: use the name that the certificate has in the URL",
}
"""What to do, by OpenSSL's number of what is wrong (openssl-verification-options(1))."""


def _tls_trouble(address: Address, error: ssl.SSLError) -> Finding:
    if isinstance(error, ssl.SSLCertVerificationError):
        otherwise = f"its certificate is not trusted ({error.verify_message}): is this the right ca_file?"
        why = _TLS_TROUBLE.get(error.verify_code, otherwise)
    else:
        why = f"no TLS ({getattr(error, 'reason', None) or error}): is this the port for mqtts://?"
    return failed("TLS", f"{address}: {why}", Exit.AUTHENTICATION)


def _day(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M UTC")


@command
def check(
    bundle: Annotated[
        Path | None,
        typer.Option(help="The device's bundle, a folder or .tar.gz; default: the installed one."),
    ] = None,
    broker: Annotated[str, typer.Option(help="In place of a bundle: URL of the broker.")] = "",
    client: Annotated[str, typer.Option(help="In place of a bundle: the device's name.")] = "",
    run: Annotated[str, typer.Option(help="Name of the run; default: any that is published.")] = "",
    task_module: Annotated[str, typer.Option(help="This device's own task.")] = "",
    ca_file: Annotated[
        Path | None, typer.Option(help="Certificate authority of an mqtts broker, PEM.")
    ] = None,
) -> None:
    """Try what this device needs, and say what to do: DNS, clock, TLS, login, rights, task and more.

    It takes no part in a run. Stop the device's service meanwhile if the broker allows a name one connection.
    """
    if broker:
        if not client:
            raise RunError("which device is this? --broker URL needs --client NAME")
        access = Access((parse_url(broker),), ca_file)
        _tell(Device(access, topics.check_name(client), run, task_module))
    place = bundle or Path(EDGE.bundle)
    if bundle is None and not place.is_dir():
        raise RunError("no device is installed here: give --bundle BUNDLE, or --broker URL and --client NAME")
    with opened(place) as folder:
        told = read_bundle(folder, "device")
        files = tuple(path for path in folder.iterdir() if path.is_file()) if folder == place else ()
        _tell(Device(told.access, told.name, run or told.run, task_module or told.task_module, files))


def _tell(device: Device) -> NoReturn:
    findings = list[Finding]()
    for finding in check_device(device):
        typer.echo(str(finding))
        findings.append(finding)
    raise typer.Exit(worst(findings))
