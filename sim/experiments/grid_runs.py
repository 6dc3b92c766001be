"""Runs what is missing of a sweep or a study, and keeps the run folders and the rows of the table."""

import shutil
from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, takewhile
from multiprocessing import resource_tracker
from pathlib import Path
from queue import Empty, SimpleQueue

from broker.files import writing
from broker.stopping import LOOK_S, Stop, children_without_ctrl_c
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.grid import GridPoint
from scenarios.loading.grid_trial import Mistake, refuse_all, try_all
from scenarios.loading.load import dump_resolved
from server_node.ownership import refuse_other_kinds
from server_node.summary import Summary
from sim.experiments.pool import RUN_FILES, Outcome, PointError, Pool, run_point
from sim.experiments.results import Mode, Row, finished, row_of, run_name, write_run_folder, write_table
from sim.network.csv_inputs import check_csv_inputs


class _Stopped(Exception):  # noqa: N818  no error: somebody asked for it
    """Somebody has asked to stop. Raised by the loop that waits, never by a signal handler."""


@dataclass(frozen=True)
class GridRun:
    """A point, and how it is to be run."""

    point: GridPoint
    mode: Mode

    @cached_property
    def scenario_yaml(self) -> str:
        """The scenario as text, as its run folder has it."""
        return dump_resolved(self.point.scenario)

    @cached_property
    def name(self) -> str:
        """Name of its run folder."""
        return run_name(self.point.values, self.mode, self.scenario_yaml)

    def summary(self, folder: Path) -> Summary | None:
        """Read what it came to from the folder of a sweep or study; None while it is not over."""
        return finished(folder / self.name, self.scenario_yaml)

    def unfinished(self, folder: Path) -> Path:
        """Give the run folder of the point while it is not over, in the folder of a sweep or study."""
        return folder / f".{self.name}.unfinished"


def sweep(
    points: Sequence[GridPoint],
    folder: Path,
    mode: Mode,
    pool: Pool,
    watch: Callable[[Row], None] = lambda _row: None,
    stop: Stop | None = None,
    *,
    one_disk: bool = True,
    kept: Mapping[int, Row] | None = None,
) -> list[Row]:
    """Run the points that have no finished run in the folder, and keep the table up to date.

    Args:
        points: the grid.
        folder: the sweep's; made if missing.
        mode: whether to train.
        pool: opens what runs points; left alone if none is to be run.
        watch: hears of every point, finished ones first.
        stop: ends the sweep early, cleanly.
        one_disk: whether those that run points reach the folder; then points go on where they were.
        kept: the rows of those that have finished, by number, where they have been read already.

    Returns:
        A row per point, in the grid's order; one that failed has an `error`. A sweep that was stopped has
        no rows of the points that have not ended.

    Raises:
        RunError: the folder cannot be written to, or has a run or a study.
    """
    refuse_other_kinds(folder, "sweep")
    with writing(folder):  # told now rather than after the first run
        folder.mkdir(parents=True, exist_ok=True)
    runs = [GridRun(point, mode) for point in points]
    rows = dict(kept_rows(runs, folder) if kept is None else kept)

    def write() -> None:
        write_table(folder, [rows[number] for number in sorted(rows)], points[0].values)

    def collect(number: int, row: Row) -> None:
        rows[number] = row
        write()
        watch(row)

    for row in rows.values():
        watch(row)
    if rows:
        write()
    missing = {number: run for number, run in enumerate(runs) if number not in rows}
    run_missing(missing, folder, pool, collect, stop or Stop(), one_disk=one_disk)
    return [rows[number] for number in sorted(rows)]


def kept_rows(runs: Sequence[GridRun], folder: Path) -> dict[int, Row]:
    """Give the rows of those runs, by number, that have a finished run in the folder."""
    rows = {}
    for number, run in enumerate(runs):
        if (summary := run.summary(folder)) is not None:
            rows[number] = row_of(run.point, run.name, summary)
    return rows


def try_runs(named: Iterable[tuple[str, GridRun]], stop: Stop) -> None:
    """Try what is to be run, so that mistakes are told now, all at once, and not after hours.

    Args:
        named: runs, and what each is called; of those with the same name one is tried.
        stop: ends the trial early.

    Raises:
        ScenarioError: some cannot be used; or are to be trained, and their data are not here.
    """
    missing = list(named)
    mistakes: list[Mistake] = []
    for name, run in missing:
        try:
            check_csv_inputs(run.point.scenario)
        except ScenarioError as error:
            mistakes.append((name, error))
    trained = {name: run.point.scenario for name, run in missing if run.mode is Mode.SIMULATE}
    timed = {name: run.point.scenario for name, run in missing if run.mode is Mode.TIMING_ONLY}
    tried = try_all(takewhile(lambda _: not stop.asked, chain(trained.items(), timed.items())))
    mistakes += (
        (name, error) for name, error in tried if name in trained or not isinstance(error, MissingDataError)
    )
    refuse_all(mistakes)


def run_missing(
    missing: Mapping[int, GridRun],
    folder: Path,
    pool: Pool,
    collect: Callable[[int, Row], None],
    stop: Stop,
    *,
    at_once: int | None = None,
    may_start: Callable[[int], bool] = lambda _number: True,
    files: Container[str] = RUN_FILES,
    one_disk: bool = True,
) -> None:
    """Run what is missing, in its order, and keep the run folders.

    A process that dies breaks its pool. Work is begun in order, so the first run under way is a likely
    culprit: it counts as failed, and a new pool goes on with the others.

    Args:
        missing: runs by number.
        folder: where their run folders go.
        pool: opens what runs them; left alone if there are none.
        collect: takes the row of each as it ends.
        stop: what is under way is given up when somebody asks.
        at_once: so many are handed to the pool at a time; all if None.
        may_start: asked of each run when its turn has come; those refused are left out.
        files: what to keep of a run folder.
        one_disk: see sweep.
    """
    waiting = deque(missing)

    def collect_outcome(number: int, outcome: Outcome) -> None:
        collect(number, _row(outcome, missing[number], folder, files))

    def hand_out(executor: Executor, number: int) -> Outcome:
        run = missing[number]
        keeps = one_disk and run.mode is Mode.SIMULATE  # the others are quickly made again
        return _hand_out(executor, run, run.unfinished(folder) if keeps else None)

    def next_run() -> int | None:
        """Take the next number that may start from those that wait."""
        while waiting:
            if may_start(number := waiting.popleft()):
                return number
        return None

    with suppress(_Stopped):
        while waiting:
            with pool() as executor:
                lost = _run_on(executor, hand_out, next_run, collect_outcome, stop, at_once or len(missing))
            if lost:
                suspect, *others = lost
                collect_outcome(suspect, lost[suspect])
                waiting.extendleft(reversed(others))


def _run_on(
    executor: Executor,
    hand_out: Callable[[Executor, int], Outcome],
    next_run: Callable[[], int | None],
    collect: Callable[[int, Outcome], None],
    stop: Stop,
    at_once: int,
) -> dict[int, Outcome]:
    """Run on one pool until nothing is left, or the pool breaks.

    Returns:
        What was under way when the pool broke, by number, in the order in which it was handed out.

    Raises:
        _Stopped: somebody has asked to stop.
    """
    under_way: dict[int, Outcome] = {}
    ended: SimpleQueue[int | None] = SimpleQueue()  # numbers; None only wakes. Its put never blocks.
    with stop.waking(partial(ended.put, None)):
        while not stop.asked:
            while len(under_way) < at_once and not stop.asked and (number := next_run()) is not None:
                under_way[number] = hand_out(executor, number)
                under_way[number].add_done_callback(partial(_put, ended, number))
            if not under_way and not stop.asked:
                return {}
            for number in _next_ended(ended):
                if _is_broken(under_way[number]):
                    return under_way
                collect(number, under_way.pop(number))
    raise _Stopped


def _put(ended: SimpleQueue[int | None], number: int, _outcome: Outcome) -> None:
    ended.put(number)


def _next_ended(ended: SimpleQueue[int | None]) -> list[int]:
    """Wait for the number of a run that has ended; give none after a wake-up or a while."""
    try:
        number = ended.get(timeout=LOOK_S)
    except Empty:
        return []
    return [] if number is None else [number]


def _hand_out(executor: Executor, run: GridRun, unfinished: Path | None) -> Outcome:
    """Hand a run to a pool; a pool that is broken gives its complaint as any run's outcome."""
    resource_tracker.ensure_running()  # its start would let Ctrl-C through again
    try:
        with children_without_ctrl_c():
            return executor.submit(run_point, run.scenario_yaml, run.mode, unfinished)
    except BrokenExecutor as error:
        outcome: Outcome = Future()
        outcome.set_exception(error)
        return outcome


def _is_broken(outcome: Outcome) -> bool:
    """Say whether a run was lost because its pool broke."""
    return not outcome.cancelled() and isinstance(outcome.exception(), BrokenExecutor)


def _row(outcome: Outcome, run: GridRun, folder: Path, files: Container[str]) -> Row:
    """Keep what a worker brought, and give its row; a point that was lost with its worker can go on."""
    point, name = run.point, run.name
    try:
        brought = outcome.result()
    except PointError as error:
        return row_of(point, name, None, str(error))
    except Exception as error:  # noqa: BLE001  a lost worker; each kind of pool has its own
        return row_of(point, name, None, f"no result of the worker: {error!r}")
    write_run_folder(folder / name, {file: text for file, text in brought.items() if file in files})
    shutil.rmtree(run.unfinished(folder), ignore_errors=True)
    summary = run.summary(folder)
    wrong = None if summary else "the worker understood the scenario otherwise; has it the same fedlite?"
    return row_of(point, name, summary, wrong)
