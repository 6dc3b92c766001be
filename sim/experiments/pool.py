"""Runs the points of a sweep: on the cores of this machine, or on those of a Dask cluster.

Either way a point goes out as the text of its scenario and comes back as the files of its run folder, so
that workers need no disk in common with the machine that sweeps.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import NamedTuple

from broker.errors import StudyError
from scenarios.loading.grid import GridPoint
from scenarios.loading.load import dump_resolved, load_scenario
from sim.experiments.results import Mode, Row, finished, row_of, run_name, write_run_folder, write_table
from sim.simulation.run import simulate

Pool = Callable[[], AbstractContextManager[Executor]]
Outcome = Future[dict[str, bytes]]

_one_at_a_time = threading.Lock()
"""A worker of Dask may have several threads; torch's number of threads is one setting for all of them."""


class PointError(Exception):
    """A point that failed; the text, in one line, says of what."""


def run_point(scenario_yaml: str, mode: Mode) -> dict[str, bytes]:
    """Run one point in a folder of its own; runs on a worker.

    Args:
        scenario_yaml: a resolved scenario.
        mode: whether to train.

    Returns:
        The files of the run folder by name.

    Raises:
        PointError: whatever went wrong.
    """
    with _one_at_a_time, tempfile.TemporaryDirectory() as scratch:
        file, folder = Path(scratch, "point.yaml"), Path(scratch, "run")
        file.write_text(scenario_yaml)
        try:
            simulate(load_scenario(file), folder, timing_only=mode is Mode.TIMING_ONLY, threads=1)
        except Exception as error:  # noqa: BLE001  of a user's task, too: not every class can travel
            text = " ".join(str(error).replace(f"{scratch}/", "").split())
            raise PointError(f"{type(error).__name__}: {text}") from None
        return {path.name: path.read_bytes() for path in folder.iterdir()}


class Job(NamedTuple):
    """A point, and how it is to be run."""

    point: GridPoint
    mode: Mode

    @property
    def name(self) -> str:
        """Name of its run folder."""
        return run_name(self.point, self.mode)


def sweep(
    points: Sequence[GridPoint],
    folder: Path,
    mode: Mode,
    pool: Pool,
    watch: Callable[[Row], None] = lambda _row: None,
) -> list[Row]:
    """Run the points that have no finished run in the folder, and keep the table up to date.

    Args:
        points: the grid.
        folder: the sweep's; made if missing.
        mode: whether to train.
        pool: opens what runs points; left alone if none is to be run.
        watch: hears of every point, finished ones first.

    Returns:
        A row per point, in the grid's order; one that failed has an `error`.
    """
    jobs = [Job(point, mode) for point in points]
    rows = kept_rows(jobs, folder)

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
    run_jobs({number: job for number, job in enumerate(jobs) if number not in rows}, folder, pool, collect)
    return [rows[number] for number in range(len(points))]


def kept_rows(jobs: Sequence[Job], folder: Path) -> dict[int, Row]:
    """Give the rows of those jobs, by number, that have a finished run in the folder."""
    rows = {}
    for number, job in enumerate(jobs):
        summary = finished(folder / job.name, dump_resolved(job.point.scenario))
        if summary is not None:
            rows[number] = row_of(job.point, job.name, summary)
    return rows


def run_jobs(
    todo: Mapping[int, Job],
    folder: Path,
    pool: Pool,
    collect: Callable[[int, Row], None],
    *,
    at_once: int | None = None,
    may_start: Callable[[int], bool] = lambda _number: True,
    files: Container[str] | None = None,
) -> None:
    """Run jobs, in their order, and keep their run folders.

    A process that dies breaks its pool. Work is begun in order, so the first job under way is a likely
    culprit: it counts as failed, and a new pool goes on with the others.

    Args:
        todo: jobs by number.
        folder: where their run folders go.
        pool: opens what runs them; left alone if there are none.
        collect: takes the row of each as it ends.
        at_once: so many are handed to the pool at a time; all if None.
        may_start: asked of each job when its turn has come; those refused are left out.
        files: what to keep of a run folder; everything if None.
    """
    waiting = deque(todo)

    def keep_row(outcome: Outcome, number: int) -> None:
        collect(number, _row(outcome, todo[number], folder, files))

    while waiting:
        under_way: dict[Outcome, int] = {}
        with pool() as executor:
            intact = True
            while intact and (waiting or under_way):
                while intact and waiting and len(under_way) < (at_once or len(todo)):
                    number = waiting.popleft()
                    if may_start(number):
                        outcome = _submit(executor, todo[number])
                        under_way[outcome] = number
                        intact = not _is_broken(outcome)
                for outcome in wait(under_way, return_when=FIRST_COMPLETED).done:
                    if _is_broken(outcome):
                        intact = False
                    else:
                        keep_row(outcome, under_way.pop(outcome))
        if under_way:
            suspect = next(iter(under_way))
            keep_row(suspect, under_way.pop(suspect))
            waiting.extendleft(reversed(under_way.values()))


def _submit(executor: Executor, job: Job) -> Outcome:
    """Hand a job to a pool; a pool that is broken gives its complaint as any job's outcome."""
    with _interrupted_later():  # to end processes that are started now is our business
        try:
            return executor.submit(run_point, dump_resolved(job.point.scenario), job.mode)
        except BrokenExecutor as error:
            outcome: Outcome = Future()
            outcome.set_exception(error)
            return outcome


def _is_broken(outcome: Outcome) -> bool:
    """Say whether a job was lost because its pool broke."""
    return outcome.done() and not outcome.cancelled() and isinstance(outcome.exception(), BrokenExecutor)


def _row(outcome: Outcome, job: Job, folder: Path, files: Container[str] | None) -> Row:
    """Keep what a worker brought, and give its row."""
    point, name = job.point, job.name
    try:
        brought = outcome.result()
    except PointError as error:
        return row_of(point, name, None, str(error))
    except Exception as error:  # noqa: BLE001  a lost worker; each kind of pool has its own
        return row_of(point, name, None, f"no result of the worker: {error!r}")
    write_run_folder(
        folder / name, {file: text for file, text in brought.items() if files is None or file in files}
    )
    summary = finished(folder / name, dump_resolved(point.scenario))
    wrong = None if summary else "the worker understood the scenario otherwise; has it the same fedlite?"
    return row_of(point, name, summary, wrong)


@contextmanager
def _interrupted_later() -> Iterator[None]:
    """Put SIGINT off until the end; processes that are started meanwhile never heed it."""
    came: list[int] = []
    with handling(signal.SIGINT, lambda number, _frame: came.append(number)):
        if sys.platform == "win32":
            yield
        else:
            # Blocked for the processes, which inherit that; another thread may still take the signal here.
            resource_tracker.ensure_running()  # its start unblocks the signal
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextmanager
def handling(number: signal.Signals, handler: Callable[..., object]) -> Iterator[None]:
    """Handle a signal in another way for a while."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def local_pool(jobs: int) -> Iterator[Executor]:
    """Give processes of this machine; when left early, they and their scratch folders are gone at once."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="fedlite-sweep-") as scratch:
        executor = ProcessPoolExecutor(jobs, context, initializer=_begin_worker, initargs=(scratch,))
        try:
            yield executor
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()
            raise
        finally:
            executor.shutdown(cancel_futures=True)


def _begin_worker(scratch: str) -> None:
    tempfile.tempdir = scratch
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def dask_pool(address: str) -> Iterator[Executor]:
    """Give the workers of a Dask cluster; when left early, points not begun are called off.

    Args:
        address: of its scheduler, such as tcp://host:8786.

    Raises:
        ValueError: Dask is not installed.
        OSError: no scheduler there.
    """
    try:
        from distributed import Client  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise StudyError("--dask needs Dask: pip install 'fedlite-mqtt[dask]'") from error
    with Client(address) as client:  # type: ignore[no-untyped-call]
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
