"""`fedlite fleet`: makes and keeps the credentials of a fleet of one's own."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from broker.cli.console import command
from broker.errors import RunError
from broker.provisioning.members import Run
from broker.provisioning.rights import ROLES, role_of, user_of
from broker.urls import EXAMPLE, Address, parse_url
from scenarios.loading.load import load_scenario
from scenarios.loading.shipped import shipped
from scenarios.schema.scenario import client_names
from scenarios.tasks.user_module import is_file

if TYPE_CHECKING:
    from collections.abc import Collection

    from broker.provisioning.fleet import Fleet

app = typer.Typer(
    help="Make and keep the certificates, passwords and rights of a fleet of your own.",
    no_args_is_help=True,
    add_completion=False,
)

Folder = Annotated[Path, typer.Option("--fleet", help="The fleet's folder.")]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Devices, or server.RUN and the like.")]
_DEFAULT = Path("fleet")
SOON_DAYS = 60
"""`fedlite fleet list` points out certificates that end within this time."""


@app.command()
@command
def init(
    scenarios: Annotated[
        list[str], typer.Argument(metavar="SCENARIO...", help="Whose clients and runs it has.")
    ],
    broker: Annotated[
        list[str],
        typer.Option(metavar="HOST", help="Name or IP address that devices reach the broker by; repeatable."),
    ],
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port of the broker.")] = 8883,
    to: Annotated[Path, typer.Option(help="Folder to make.")] = _DEFAULT,
    auth: Annotated[
        Literal["certificate", "password"], typer.Option(help="How members say who they are.")
    ] = "certificate",
    name: Annotated[str, typer.Option(help="Name of the fleet; the folder's name if not given.")] = "",
    standing: Annotated[
        bool, typer.Option("--standing", help="Devices take any run of the fleet, also if there is one only.")
    ] = False,
    broker_files: Annotated[
        Path | None,
        typer.Option(help="Where the files in DIR/broker will lie on the broker's machine; default: in DIR."),
    ] = None,
) -> None:
    """Make a fleet: an authority, the broker's files, and a bundle for each server, device and operator."""
    urls = [str(_broker_address(host, port)) for host in broker]
    runs = [_run_of(scenario) for scenario in scenarios]
    fleet = _fleets().create(
        to,
        name=name or to.resolve().name,
        brokers=list(dict.fromkeys(urls)),
        by_password=auth == "password",
        runs=runs,
        broker_files=broker_files,
        standing=standing,
    )
    typer.echo(f"made the fleet {fleet.state.name} in {to}: {_counted(fleet.state.members)}")
    typer.echo(f"start its broker: fedlite broker --kind mosquitto --host 0.0.0.0 --fleet {to}")
    server = fleet.bundle_folder(user_of("server", runs[0].name))
    typer.echo(f"start a server:   fedlite server {scenarios[0]} --bundle {server}")
    typer.echo(f"give each device its bundle out of {to / 'bundles'}; keep {to / 'ca/ca.key'} to yourself")


@app.command()
@command
def add(
    names: Names,
    role: Annotated[
        Literal["device", "operator", "observer"], typer.Option("--as", help="What they are.")
    ] = "device",
    run: Annotated[
        str, typer.Option(help="Run that the bundles of devices name; without it they take any run.")
    ] = "",
    fleet: Folder = _DEFAULT,
) -> None:
    """Take new members in, and make their bundles."""
    opened = _fleets()(fleet)
    for user in [user_of(role, name) for name in names]:
        opened.add(user, run)
        typer.echo(f"{user}: {opened.bundle_folder(user)}")
    _tell_broker(opened)


@app.command()
@command
def revoke(names: Names, fleet: Folder = _DEFAULT) -> None:
    """Put members out: certificates are revoked, passwords and rights are gone, bundles are deleted here."""
    opened = _fleets()(fleet)
    for user in names:
        opened.revoke(user)
        typer.echo(f"{user} is out of the fleet {opened.state.name}")
    _tell_broker(opened)


@app.command()
@command
def rotate(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Members that get new credentials.")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="All members.")] = False,
    broker: Annotated[bool, typer.Option("--broker", help="The broker's own certificate.")] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Revoke the old certificates now, not when they expire.")
    ] = False,
    fleet: Folder = _DEFAULT,
) -> None:
    """Make new credentials. Old certificates stay valid until they expire; old passwords do not."""
    if bool(names) + everybody + broker != 1:
        raise RunError("say what to rotate: names, or --all, or --broker")
    opened = _fleets()(fleet)
    if broker:
        opened.rotate_broker()
    else:
        users = names or list(opened.state.members)
        opened.rotate(users, at_once=at_once)
        for user in users:
            typer.echo(f"{user}: {opened.bundle_folder(user)}")
    _tell_broker(opened)


@app.command()
@command
def allow(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN|SCENARIO...", help="A run's name, or a scenario to run.")
    ],
    fleet: Folder = _DEFAULT,
) -> None:
    """Let the fleet have more runs: all its devices may take part, and each run gets a server's bundle.

    Clients of a scenario that are not in the fleet yet are taken in.
    """
    opened = _fleets()(fleet)
    new = opened.allow(_run_of(run) if _is_scenario(run) else Run(run, ()) for run in runs)
    for user in new:
        typer.echo(f"{user}: {opened.bundle_folder(user)}")
    _tell_broker(opened)


@app.command("list")
@command
def list_members(fleet: Folder = _DEFAULT) -> None:
    """List who is in the fleet, and until when their certificates are valid."""
    state = _fleets()(fleet).state
    table = Table("member", "role", "run", "valid until", box=None)
    for user, member in state.members.items():
        newest = next(reversed(member.certificates.values()), "")
        table.add_row(user, role_of(user)[0], member.run or "-", _until(newest))
    table.add_row("(broker)", "", "", _until(state.broker_expires))
    Console().print(table)
    typer.echo(
        f"fleet {state.name}: {_counted(state.members)}; runs {', '.join(state.runs)}; at "
        f"{', '.join(state.brokers)}; {len(state.revoked)} certificates revoked"
    )


def _fleets() -> "type[Fleet]":
    try:
        from broker.provisioning.fleet import Fleet  # noqa: PLC0415  it needs an extra
    except ImportError as error:
        if not str(error.name).startswith("cryptography"):
            raise
        raise RunError(
            "certificates need the package cryptography: pip install 'fedlite-mqtt[fleet]'"
        ) from error
    return Fleet


def _broker_address(host: str, port: int) -> Address:
    """Read what --broker names: a host, or host:port, or the same as a URL of mqtts.

    Raises:
        BrokerError: it is none of these.
    """
    if not host.isascii():
        raise RunError("a certificate takes host names of ASCII letters: write the name's form with xn--")
    if "://" in host:
        address = parse_url(host)
        if not address.tls or address.username:
            raise RunError(f"--broker takes a host, or an mqtts:// URL without a user; {EXAMPLE}")
        return address
    if host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    has_port = ":" in host.rpartition("]")[2]
    return parse_url(f"mqtts://{host}" if has_port else f"mqtts://{host}:{port}")


def _is_scenario(text: str) -> bool:
    return text in shipped() or Path(text).is_file() or text.endswith(".yaml")


def _run_of(name_or_path: str) -> Run:
    scenario = load_scenario(name_or_path)
    module = scenario.task.module
    return Run(
        scenario.name,
        client_names(scenario),
        Path(module) if module is not None and is_file(module) else None,
    )


def _counted(users: "Collection[str]") -> str:
    roles = [role_of(user)[0] for user in users]
    return ", ".join(
        f"{count} {role}{'' if count == 1 else 's'}" for role in ROLES if (count := roles.count(role))
    )


def _until(expires: str) -> str:
    if not expires:
        return "(password)"
    left = (dt.datetime.fromisoformat(expires) - dt.datetime.now(dt.UTC)).days
    return f"{expires[:10]}, {left} days" + (": rotate it" if left < SOON_DAYS else "")


def _tell_broker(fleet: "Fleet") -> None:
    typer.echo(
        f"now bring the files in {fleet.broker_folder} to the broker's machine and let it read them: "
        "SIGHUP, or `systemctl reload mosquitto`"
    )
