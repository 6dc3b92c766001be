"""Runs what is missing of a study, the most important first, as far as the budget reaches."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from broker.cli.wording import format_seconds
from broker.files import writing
from broker.stopping import Stop
from scenarios.data.cache import data_folder
from scenarios.data.fetch import SOURCES, is_there
from scenarios.errors import ScenarioError
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.tasks import task_of
from sim.experiments.grid_runs import kept_rows, run_missing, try_runs
from sim.experiments.pool import local_pool
from sim.experiments.results import Row
from sim.experiments.study.budget import Budget
from sim.experiments.study.points import StudyRun

FILES = frozenset({"scenario.yaml", "environment.json", "metrics.parquet", "summary.json"})
"""Kept of each run; timelines and models of hundreds of runs would be gigabytes."""


def run_study(
    runs: Sequence[StudyRun],
    folder: Path,
    *,
    budget_s: float,
    processes: int,
    tell: Callable[[str], None],
    stop: Stop,
) -> list[str]:
    """Try and run those of a study's runs that have no finished folder, as long as the budget has room.

    Args:
        runs: the most important first.
        folder: the study's; run folders go below it.
        budget_s: no run is started that would end later.
        processes: runs at a time.
        tell: takes lines for people.
        stop: gives up what is under way when somebody asks.

    Returns:
        What failed, a line each.

    Raises:
        ScenarioError: some cannot be used, see sim.experiments.grid_runs.try_runs.
        RunError: the folder cannot be written to.
    """
    distinct = list({run.grid_run.name: run for run in runs}.values())
    budget = Budget(budget_s, processes)
    kept = kept_rows([run.grid_run for run in distinct], folder)
    for number, row in kept.items():
        budget.note(distinct[number], row["wall_seconds"])
    waiting = {number: run for number, run in enumerate(distinct) if number not in kept}
    failures: list[str] = []
    try_runs(((run.setting, run.grid_run) for run in waiting.values()), stop)
    if waiting:
        with writing(folder):  # told now rather than after the first run
            folder.mkdir(parents=True, exist_ok=True)

    def collect(number: int, row: Row) -> None:
        run = waiting.pop(number)
        if row["error"] is None:
            budget.note(run, row["wall_seconds"])
        else:
            failures.append(f"{run.title}: {row['error']}")
        count = f"[{len(distinct) - len(waiting)}/{len(distinct)}]"
        left = format_seconds(budget.left_s(waiting.values()))
        tell(f"{count} {run.title}: {_result(row)}; {left} left")

    run_missing(
        {number: run.grid_run for number, run in waiting.items()},
        folder,
        partial(local_pool, processes),
        collect,
        stop,
        at_once=processes,
        may_start=lambda number: budget.admits(distinct[number]),
        files=FILES,
    )
    if waiting and not stop.asked:
        tell(f"{len(waiting)} of {len(distinct)} runs did not fit into the budget; the same command goes on")
    return failures


def migrate_run_folders(runs: Sequence[StudyRun], folder: Path) -> None:
    """Let runs of an earlier version count that lack only settings which it did not have, at their default.

    Their scenarios are read and written anew, and their folders get today's names.
    """
    names = {run.grid_run.name for run in runs}
    wanted = {(run.grid_run.scenario_yaml, run.trained): run.grid_run.name for run in runs}
    for file in folder.glob("*/summary.json"):
        there = file.parent
        if there.name in names:
            continue
        try:
            text = dump_resolved(load_scenario(there / "scenario.yaml"))
            trained = json.loads(file.read_text())["metric"]["final"] is not None
        except (OSError, ValueError, LookupError, TypeError, ScenarioError):
            continue  # whatever it is, it is none of ours
        name = wanted.get((text, trained))
        if name is not None and not (folder / name).exists():
            (there / "scenario.yaml").write_text(text)
            there.rename(folder / name)


def lacking_data(runs: Sequence[StudyRun]) -> dict[str, str]:
    """Say why tasks cannot run: of each one whose data are not there, by its name, how to get them."""
    lacking = {}
    for run in {run.task.name: run for run in runs}.values():
        spec = run.grid_run.point.scenario.task
        if spec.name in SOURCES and is_there(spec.name, spec.path or data_folder(spec.name)):
            continue
        try:
            task_of(run.grid_run.point.scenario).load()
        except ScenarioError as error:
            lacking[run.task.name] = error.detail
    return lacking


def _result(row: Row) -> str:
    if row["error"] is not None:
        return "failed"
    final, took = row["metric.final"], format_seconds(row["wall_seconds"])
    learned = f"{format_seconds(row['virtual_seconds'])} virtual" if final is None else f"{final:.3f}"
    return f"{learned}, {took}"
