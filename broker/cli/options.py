"""How a command is told the way to a broker: options, a bundle, the scenario, files and the environment."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Protocol

import typer

from broker.errors import BrokerError
from broker.provisioning.bundle import Bundle
from broker.transports.access import Access, read_password
from broker.urls import Address, parse_urls, with_password

PASSWORD_VARIABLE, BROKER_VARIABLE = "FEDLITE_PASSWORD", "FEDLITE_BROKER"
"""Environment variables: other users of the machine cannot read them, as they can a command line."""

BrokerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--broker",
        metavar="URL",
        envvar=BROKER_VARIABLE,
        show_envvar=True,
        help="mqtt://host:port or mqtts://user@host:port; several, or with commas: tried in turn.",
    ),
]
CaFileOption = Annotated[
    Path | None,
    typer.Option("--ca-file", help="Certificate authority of an mqtts broker, PEM; default: the system's."),
]
PasswordFileOption = Annotated[
    Path | None,
    typer.Option(
        "--password-file",
        help=f"File with the password of the URL's user; else the environment variable {PASSWORD_VARIABLE}.",
    ),
]
BundleOption = Annotated[
    Path | None,
    typer.Option("--bundle", help="Folder of a bundle of `fedlite fleet`; options on the command line win."),
]


class BrokerKeys(Protocol):
    """What a scenario says of its broker."""

    @property
    def url(self) -> tuple[Address, ...] | None:
        """The brokers, if they run already."""

    @property
    def ca_file(self) -> Path | None:
        """Certificates to trust."""

    @property
    def password_file(self) -> Path | None:
        """Where the password is."""


def access_from(
    urls: Sequence[str] | None,
    *,
    ca_file: Path | None = None,
    password_file: Path | None = None,
    bundle: Bundle | None = None,
    spec: BrokerKeys | None = None,
) -> Access:
    """Decide how to get to the broker: by the command line, else the bundle, else the scenario.

    A password comes from the first that has one: the URL, the file on the command line, the bundle, the
    environment, the scenario's file.

    Args:
        urls: of the command line.
        ca_file: of the command line.
        password_file: of the command line.
        bundle: the member's.
        spec: the scenario's broker.

    Raises:
        BrokerError: nothing says where the broker is, or something said cannot be used.
    """
    given = parse_urls(urls) if urls else ()
    known = bundle.access if bundle is not None else None
    if known is not None and given and not all(address.tls for address in given):
        raise BrokerError("a bundle's keys and passwords are for encrypted connections: use an mqtts:// URL")
    brokers = given or (known.brokers if known is not None else (spec and spec.url) or ())
    if not brokers:
        raise BrokerError(
            "where is the broker? give --broker URL, --bundle DIR, or a scenario with broker.url"
        )
    if ca_file is not None and not any(address.tls for address in brokers):
        raise BrokerError("--ca-file goes with an mqtts:// URL; with mqtt:// nothing is encrypted")
    if password_file is not None:
        brokers = with_password(brokers, read_password(password_file))
    if known is not None:
        mine = known.brokers[0]
        brokers = tuple(
            address if address.username else replace(address, username=mine.username, password=mine.password)
            for address in brokers
        )
    trusted = ca_file or (known.ca_file if known is not None else spec.ca_file if spec is not None else None)
    brokers = _with_other_passwords(brokers, spec if not given and known is None else None)
    if known is None:
        return Access(brokers, trusted)
    return replace(known, brokers=brokers, ca_file=trusted)


def _with_other_passwords(brokers: tuple[Address, ...], spec: BrokerKeys | None) -> tuple[Address, ...]:
    """Look for the passwords of users that have none yet."""
    if all(address.username is None or address.password is not None for address in brokers):
        return brokers
    if said := os.environ.get(PASSWORD_VARIABLE):
        return with_password(brokers, said)
    if spec is not None and spec.password_file is not None:
        return with_password(brokers, read_password(spec.password_file))
    return brokers
