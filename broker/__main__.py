"""`python -m broker` runs a broker until Ctrl-C."""

import ipaddress
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.console import command
from broker.errors import BrokerError
from broker.provisioning.configuration import CONFIG, port_of
from broker.servers.spawn import LOCALHOST, Kind, check_free, run_broker
from broker.urls import PORTS, Address


@command
def main(
    kind: Annotated[
        Kind, typer.Option(help="embedded needs nothing; mosquitto must be installed.")
    ] = "embedded",
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 for all of IPv4, :: for all. Default: this machine."
        ),
    ] = LOCALHOST,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="TCP port; the fleet's, or 1883.")
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where mosquitto keeps its data.")] = Path("broker-data"),
    fleet: Annotated[
        Path | None,
        typer.Option(
            help="Folder of `fedlite fleet init`, or its broker/: TLS, only members, each its own topics."
        ),
    ] = None,
    anonymous: Annotated[
        bool,
        typer.Option("--anonymous", help="Let everybody in who reaches this machine, without a password."),
    ] = False,
    until_stdin_closes: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run a broker: with --fleet for its members, otherwise without passwords, for this machine alone."""
    files = _broker_files(fleet)
    if files is None and not anonymous and not _is_this_machine(host):
        raise BrokerError(
            f"a broker on {host} without a fleet lets everybody in who reaches this machine: give "
            "--fleet DIR (`fedlite fleet init` makes one), or --anonymous if that is what you want"
        )
    if files is not None and anonymous:
        raise BrokerError("--fleet lets in members only, --anonymous everybody: choose one")
    if port is None:
        port = PORTS["mqtt"] if files is None else port_of(_text(files / CONFIG))
    check_free(host, port)
    typer.echo(f"{kind} broker on {Address(host, port, tls=files is not None)}; Ctrl-C ends it")
    run_broker(kind, host=host, port=port, folder=folder, files=files, until_stdin_closes=until_stdin_closes)


def _broker_files(fleet: Path | None) -> Path | None:
    """Give the folder with the broker's files, which may have been copied here without the rest."""
    if fleet is None:
        return None
    for folder in (fleet / "broker", fleet):
        if (folder / CONFIG).is_file():
            return folder
    raise BrokerError(f"{fleet} has no files of a fleet's broker; `fedlite fleet init` makes them")


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"{file} cannot be read: {error}") from error


if __name__ == "__main__":
    typer.run(main)
