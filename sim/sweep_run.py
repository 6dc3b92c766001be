"""Runs the points of a sweep: on the cores of this machine, or on those of a Dask cluster.

Either way a point goes out as the text of its scenario and comes back as the files of its run folder, so
that workers need no disk in common with the machine that sweeps.
"""

import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from scenarios.grid import Point
from scenarios.load import dump_resolved, load_scenario
from sim.sweep import Mode, Row, finished, keep, row_of, run_name, write_table
from sim.virtual import simulate

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


def sweep(
    points: Sequence[Point],
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
    names = [run_name(point, mode) for point in points]
    texts = [dump_resolved(point.scenario) for point in points]
    rows: dict[int, Row] = {}

    def write() -> None:
        write_table(folder, [rows[number] for number in sorted(rows)], points[0].values)

    for number, point in enumerate(points):
        if (summary := finished(folder / names[number], texts[number])) is not None:
            rows[number] = row_of(point, names[number], summary)
            watch(rows[number])
    if rows:
        write()

    def collect(number: int, outcome: Outcome) -> None:
        rows[number] = _row(outcome, points[number], folder / names[number], texts[number])
        write()
        watch(rows[number])

    _run_all({number: text for number, text in enumerate(texts) if number not in rows}, mode, pool, collect)
    return [rows[number] for number in range(len(points))]


def _run_all(todo: dict[int, str], mode: Mode, pool: Pool, collect: Callable[[int, Outcome], None]) -> None:
    """Run scenarios by number and hand over what comes of each.

    A process that dies breaks its pool. Work is begun in order, so the first point that is left is a likely
    culprit: it counts as failed, and a new pool goes on with the others.
    """
    while todo:
        with pool() as executor:
            left = _submit(executor, todo, mode)
            for outcome in as_completed(list(left)):
                if outcome.cancelled() or not isinstance(outcome.exception(), BrokenExecutor):
                    collect(left.pop(outcome), outcome)
        if left:
            suspect = next(iter(left))
            collect(left.pop(suspect), suspect)
        todo = {number: todo[number] for number in left.values()}


def _submit(executor: Executor, texts: dict[int, str], mode: Mode) -> dict[Outcome, int]:
    # Processes that are started now ignore Ctrl-C, as we do for the moment: to end them is our business.
    with handling(signal.SIGINT, signal.SIG_IGN):
        return {executor.submit(run_point, text, mode): number for number, text in texts.items()}


def _row(outcome: Outcome, point: Point, folder: Path, scenario_yaml: str) -> Row:
    """Keep what a worker brought, and give its row."""
    try:
        keep(folder, outcome.result())
    except PointError as error:
        return row_of(point, folder.name, None, str(error))
    except Exception as error:  # noqa: BLE001  a lost worker; each kind of pool has its own
        return row_of(point, folder.name, None, f"no result of the worker: {error!r}")
    summary = finished(folder, scenario_yaml)
    wrong = None if summary else "the worker understood the scenario otherwise; has it the same fedlite?"
    return row_of(point, folder.name, summary, wrong)


@contextmanager
def handling(number: signal.Signals, handler: signal.Handlers | Callable[..., object]) -> Iterator[None]:
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
        raise ValueError("--dask needs Dask: pip install 'fedlite-mqtt[dask]'") from error
    with Client(address) as client:  # type: ignore[no-untyped-call]
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
