"""The command `fedlite`."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

from broker.__main__ import main as broker
from broker.console import command
from broker.errors import RunError
from broker.exits import COMPLETE, EPILOG, STOPPED, exit_of
from broker.machine.event_log import read_notes
from broker.options import CaFileOption, PasswordFileOption, access_from
from broker.stopping import stop_on_signals
from broker.transports.access import Access
from broker.urls import masked
from edge_client.__main__ import edge
from scenarios.loading.grid import load_grid
from scenarios.loading.load import dump_resolved, load_scenario, read_tree
from scenarios.loading.own_data import data_setting
from scenarios.loading.rehearsal import data_missing
from scenarios.loading.shipped import question, shipped
from scenarios.schema.scenario import Scenario
from scenarios.tasks import load_task
from server_node.__main__ import JOURNAL, server
from server_node.progress import over
from server_node.summary import Summary, refusals
from server_node.vocabulary.reports import Watch
from sim.commands.calibrate import calibrate
from sim.commands.data import app as data
from sim.commands.fleet import app as fleet
from sim.commands.operate import clear, stop
from sim.commands.progress import summary_table, watching_run
from sim.commands.reproduce import reproduce
from sim.commands.sweep import sweep
from sim.live.run import run_here, write_trace
from sim.network.csv_inputs import check_csv_inputs
from sim.simulation.moment import standing_of
from sim.simulation.run import simulate as simulate_scenario


class _Masked(TyperGroup):
    """Repeats no password of a URL when it says that a command line cannot be read."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _masking():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _masking():
            return super().invoke(ctx)


@contextmanager
def _masking() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(words := getattr(error, "message", None), str):
            error.message = masked(words)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Masked,
    help="Split learning over MQTT with clustered activations.",
    no_args_is_help=True,
    add_completion=False,
    epilog=EPILOG,
    pretty_exceptions_enable=False,  # mistakes are one line; a bug's traceback should be plain
)
scenarios = typer.Typer(help="List, show and check scenarios.", no_args_is_help=True)
app.add_typer(scenarios, name="scenarios")
app.add_typer(data, name="data")
app.add_typer(fleet, name="fleet")

Spec = Annotated[str, typer.Argument(metavar="SCENARIO", help="A file, or the name of a shipped scenario.")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a setting; repeatable."),
]

Out = Annotated[Path | None, typer.Option(help="Run folder; below runs/ if not given.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Begin anew, over what the run folder has.")]
DATA = typer.Option("--data", help="With partition local: a folder with the data of each client.")
AsJson = Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")]


@app.command(epilog=EPILOG)
@command
def run(
    scenario: Spec,
    settings: Settings = None,
    data_folder: Annotated[Path | None, DATA] = None,
    out: Out = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Edge processes that share the fleet; default: cores - 1.")
    ] = None,
    fresh: Fresh = False,
    takeover: Annotated[
        bool, typer.Option("--takeover", help="Take the run over from a server that is at work or frozen.")
    ] = False,
    shape: Annotated[
        bool, typer.Option("--shape", help="Put the scenario's links between clients and broker.")
    ] = False,
    speed_up: Annotated[
        float | None, typer.Option(min=0.01, help="With --shape: link times are divided by this.")
    ] = None,
    broker: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="A broker that runs already, or several.")
    ] = None,
    ca_file: CaFileOption = None,
    password_file: PasswordFileOption = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario here and now: broker, server and all clients on this machine.

    The broker is the scenario's, or the one of --broker, which runs already.

    Ctrl-C and SIGTERM pause it: the same command goes on.
    """
    if speed_up and not shape:
        raise RunError("--speed-up is for --shape: it divides the times of links")
    changes = [*(settings or ()), *data_setting(data_folder)]
    loaded = load_scenario(scenario, changes)
    access = _access(loaded, broker, ca_file, password_file)
    folder = out or Path("runs") / loaded.name
    finished = None if fresh else over(loaded, folder)
    if finished is not None:
        summary, words = finished
        typer.echo(words, err=True)
        _tell(loaded, summary, folder, as_json=as_json)
        return
    with stop_on_signals() as stop, _watching(loaded, as_json=as_json) as watch:
        summary = run_here(
            scenario,
            changes,
            folder=folder,
            processes=processes,
            watch=watch,
            access=access,
            stop=stop,
            fresh=fresh,
            takeover=takeover,
            shape=(speed_up or 1.0) if shape else None,
        )
    _tell(loaded, summary, folder, as_json=as_json)


def _access(
    scenario: Scenario, urls: list[str] | None, ca_file: Path | None, password_file: Path | None
) -> Access | None:
    """Give the way to a broker that runs already; None where the scenario's is started here."""
    if urls or scenario.broker.kind == "url":
        return access_from(urls, ca_file=ca_file, password_file=password_file, spec=scenario.broker)
    if ca_file or password_file:
        raise RunError("--ca-file and --password-file go with --broker, or a scenario with broker.url")
    return None


@app.command(epilog=EPILOG)
@command
def simulate(
    scenario: Spec,
    settings: Settings = None,
    data_folder: Annotated[Path | None, DATA] = None,
    out: Out = None,
    timing_only: Annotated[
        bool, typer.Option("--timing-only", help="Train nothing: sizes and durations only.")
    ] = False,
    fresh: Fresh = False,
    as_json: AsJson = False,
) -> None:
    """Run a scenario in virtual time, over the network, devices and broker that it describes.

    After Ctrl-C, SIGTERM or a crash the same command goes on, unless it trains nothing: then it begins anew.
    """
    loaded = load_scenario(scenario, [*(settings or ()), *data_setting(data_folder)])
    folder = out or Path("runs") / f"{loaded.name}-simulated"
    finished = None if fresh else standing_of(loaded, folder, timing_only=timing_only).finished
    if finished is not None:
        summary, words = finished
        typer.echo(words, err=True)
        _tell(loaded, summary, folder, as_json=as_json)
        return
    with stop_on_signals() as stop, _watching(loaded, as_json=as_json) as watch:
        summary = simulate_scenario(
            loaded, folder, timing_only=timing_only, watch=watch, stop=stop, fresh=fresh
        )
    _tell(loaded, summary, folder, as_json=as_json, goes_on=not timing_only)


@app.command()
@command
def trace(
    folder: Annotated[Path, typer.Argument(help="The server's run folder.")],
    journals: Annotated[list[Path] | None, typer.Argument(help="Files of `fedlite edge --journal`.")] = None,
) -> None:
    """Join the journals of server and edge processes on several machines to a trace.json."""
    if not (folder / "scenario.yaml").is_file():
        raise RunError(f"{folder} is no run folder: it has no scenario.yaml; fedlite server writes it")
    scenario = load_scenario(str(folder / "scenario.yaml"))
    write_trace(scenario, folder, read_notes(folder / JOURNAL), journals or [])
    typer.echo(f"wrote {folder / 'trace.json'}")


@app.command()
@command
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs or sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option(help="File; default: report.html, in the folder if there is one, else here."),
    ] = None,
) -> None:
    """Write one HTML page about runs or sweeps: what they learned, what it cost, who held them up."""
    from sim.report.page import write_report  # noqa: PLC0415  no other command needs plotly, which is large

    typer.echo(f"report in {write_report(runs, out)}")


def _watching(scenario: Scenario, *, as_json: bool) -> AbstractContextManager[Watch]:
    metric = load_task(scenario.task).metric
    return watching_run(
        rounds=scenario.training.rounds, clients=scenario.fleet_size, metric=metric, as_json=as_json
    )


def _tell(scenario: Scenario, summary: Summary, folder: Path, *, as_json: bool, goes_on: bool = True) -> None:
    """Tell what a run came to.

    Args:
        scenario: that ran.
        summary: of the run.
        folder: its run folder.
        as_json: whether to tell it to programs.
        goes_on: whether the same command would go on with a run that was stopped.

    Raises:
        typer.Exit: with the code of the reason, if the run is not complete.
    """
    reason = summary["reason"]
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        if reason not in (COMPLETE, STOPPED):
            typer.echo(f"ended early: {reason}")
        typer.echo(summary_table(summary))
        typer.echo(f"\nresults in {folder}")
        if said := refusals(summary):
            typer.echo(f"\n{said}")
    if reason == STOPPED:
        rounds = f"{summary['rounds']} of {scenario.training.rounds} rounds"
        command = "goes on" if goes_on else "begins anew"
        typer.echo(
            f"stopped after {rounds}; {folder} says what they came to; the same command {command}", err=True
        )
    if reason != COMPLETE:
        raise typer.Exit(exit_of(reason))


app.command()(sweep)
app.command()(reproduce)
app.command(name="broker")(broker)
app.command(epilog=EPILOG)(server)
app.command(epilog=EPILOG)(edge)
app.command(epilog=EPILOG)(stop)
app.command(epilog=EPILOG)(clear)
app.command()(calibrate)


@scenarios.command("list")
@command
def list_scenarios() -> None:
    """List the shipped scenarios, each with the question it answers."""
    table = Table("name", "question", box=None)
    for name, path in shipped().items():
        table.add_row(name, question(path))
    Console().print(table)


@scenarios.command()
@command
def show(scenario: Spec, settings: Settings = None) -> None:
    """Print a scenario with everything it inherits and every default."""
    typer.echo(dump_resolved(load_scenario(scenario, settings or ())), nl=False)


@scenarios.command()
@command
def validate(scenario: Spec, settings: Settings = None) -> None:
    """Check a scenario and say what is wrong: file, line, key, what is allowed."""
    loaded = load_scenario(scenario, settings or ())
    check_csv_inputs(loaded)
    why_untried = data_missing(loaded)
    _, swept = read_tree(scenario, settings or ())
    grid = f", a sweep of {len(load_grid(scenario, settings or ()))} points" if swept else ""
    typer.echo(f"{loaded.name}: valid, {loaded.fleet_size} clients, {loaded.training.rounds} rounds{grid}")
    if why_untried:
        typer.echo(
            f"{loaded.name}: not tried, here it can only be simulated with --timing-only: {why_untried}"
        )


def main() -> None:
    """Run the command line."""
    app()
