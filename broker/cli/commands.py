"""Which function each command of `fedlite` is.

Other rooms are named here as text only. A command's module is imported when that command is given:
`fedlite --help` need not wait for torch, and a device need not have what only a server imports.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from broker.cli.console import telling
from broker.cli.usage import in_plain_words
from broker.exits import EPILOG


class Command(NamedTuple):
    """Where a command is.

    Attributes:
        target: module:function, or module:app of a group.
        line: the first line of its help.
        extra: of this package, which brings what its module imports; empty if every installation has that.
    """

    target: str
    line: str
    extra: str = ""


COMMANDS = {
    "run": Command(
        "sim.commands.run:run",
        "Run a scenario here and now: broker, server and all clients on this machine.",
        extra="sim",
    ),
    "simulate": Command(
        "sim.commands.run:simulate",
        "Run a scenario in virtual time, over the network, devices and broker that it describes.",
        extra="sim",
    ),
    "trace": Command(
        "sim.commands.trace:trace",
        "Join the journals of server and edge processes on several machines to a trace.json.",
        extra="sim",
    ),
    "advise": Command(
        "sim.advice.command:advise",
        "Measure codecs on a task's own activations and gradients, and advise which to take.",
    ),
    "report": Command(
        "sim.commands.report:report",
        "Write one HTML page about runs or sweeps: what they learned, what it cost, who held them up.",
        extra="report",
    ),
    "compare": Command(
        "sim.commands.report:compare",
        "Hold runs, or the points of sweeps, against each other: means over seeds, what can be told apart.",
        extra="report",
    ),
    "sweep": Command(
        "sim.commands.sweep:sweep",
        "Run a scenario in virtual time at every point of a grid; the same command goes on where it stopped.",
        extra="sim",
    ),
    "reproduce": Command(
        "sim.commands.reproduce:reproduce",
        "Run a study, such as the FedLite paper's, as far as a budget of time reaches; write tables, plots.",
        extra="sim",
    ),
    "broker": Command(
        "broker.__main__:main",
        "Run a broker: with --fleet for its members, otherwise without passwords, for this machine alone.",
        extra="server",
    ),
    "server": Command(
        "server_node.__main__:server",
        "Serve one run: choose cohorts, train the tail, average the heads, write the run folder.",
        extra="server",
    ),
    "server install": Command(
        "server_node.service.installed:install",
        "Install the server of a run as a service, with Mosquitto beside it if FLEET is a fleet's folder.",
    ),
    "server status": Command(
        "server_node.service.installed:status",
        "Tell whether the server runs, and what it said last; the exit code is 0 if it runs.",
    ),
    "server uninstall": Command(
        "server_node.service.installed:uninstall",
        "Stop the server and remove its files and its unit, and the fleet's settings of Mosquitto.",
    ),
    "edge": Command(
        "edge_client.__main__:edge", "Host some of a run's clients on this machine until the run is over."
    ),
    "edge check": Command(
        "edge_client.service.check:check",
        "Try what this device needs, and say what to do: DNS, clock, TLS, login, rights, task and more.",
    ),
    "edge install": Command(
        "edge_client.service.installed:install",
        "Install this device as a service: a user of its own, its bundle, a systemd unit; then start it.",
    ),
    "edge status": Command(
        "edge_client.service.installed:status",
        "Tell whether the service runs, and what it said last; the exit code is 0 if it runs.",
    ),
    "edge update": Command(
        "edge_client.service.installed:update",
        "Start the service anew, with a new bundle or after the package was updated.",
    ),
    "edge uninstall": Command(
        "edge_client.service.installed:uninstall",
        "Stop the service and remove its user, its files and its unit; the package itself stays.",
    ),
    "watch": Command(
        "sim.watch.command:watch",
        "Show a live run: its progress, its fleet, the round under way, what has happened.",
    ),
    "fleet": Command(
        "sim.commands.fleet:app",
        "Make and keep the certificates, passwords and rights of a fleet of your own.",
    ),
    "stop": Command(
        "sim.commands.operate:stop",
        "End a run for good: its server writes the results and ends, and all edges leave.",
    ),
    "clear": Command(
        "sim.commands.operate:clear",
        "Remove what the broker keeps of a run: state, scenario, presence, what `fedlite watch` shows.",
    ),
    "calibrate": Command(
        "sim.commands.calibrate:calibrate",
        "Measure how long this machine computes for a scenario's task and codecs, and write it to a file.",
    ),
    "links": Command(
        "sim.network.links.importing.command:app",
        "List, convert, make and draw links: presets, and traces of links that change as time goes.",
    ),
    "scenarios": Command("sim.commands.scenarios:app", "List, show and check scenarios."),
    "completion": Command(
        "broker.cli.completion:completion",
        "Write a script by which a shell completes commands, options and the names of scenarios.",
    ),
    "data": Command(
        "sim.commands.data:app", "Get the data of tasks; write and show what each device would have."
    ),
}
"""By name."""


def load(name: str) -> Any:
    """Import a command; gives what typer makes of it.

    Raises:
        SystemExit: its module needs a package that is not installed; the screen says which extra brings it.
    """
    command = COMMANDS[name]
    module, _, attribute = command.target.partition(":")
    with telling(extra=command.extra):
        found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name, epilog=EPILOG)(function)
    made = typer.main.get_command(found)
    made.name = name
    return made


class _Lazy(TyperGroup):
    """A group whose commands have a name and a line of help each, and are imported to be run.

    A name may be of two words, of which the first may be a command, too. When a command line cannot be read,
    the password of a URL in it is not repeated.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the command itself where its name was given."""
        if (both := " ".join(args[:2])) in self.commands:
            args = [both, *args[2:]]
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load(name), rest

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        """Read the options before the command's name."""
        with _in_plain_words():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given."""
        with _in_plain_words():
            return super().invoke(ctx)


@contextmanager
def _in_plain_words() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        in_plain_words(error)
        raise


app = typer.Typer(
    help="Split learning over MQTT with clustered activations.",
    cls=_Lazy,
    no_args_is_help=True,
    add_completion=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,  # mistakes are one line; a bug's traceback should be plain
)


def _tell_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415  slow, and --help needs none of it

        typer.echo(f"fedlite {version('fedlite-mqtt')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_tell_version)
    ] = False,
) -> None:
    """Take the options that belong to no command."""


def _nothing() -> None:
    """Stand for a command that is not imported yet."""


for _name, _command in COMMANDS.items():
    app.command(_name, help=_command.line)(_nothing)
