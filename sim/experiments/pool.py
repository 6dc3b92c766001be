"""Where the points of a grid run: on the cores of this machine, or on those of a Dask cluster.

Either way a point goes out as the text of its scenario and comes back as the files of its run folder, so
that workers need no disk in common with the machine that sweeps. Where they have, a point that is not over
leaves what it has in a folder there, and goes on from it.
"""

import multiprocessing
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from broker.errors import AnotherServerError, CannotGoOnError, StudyError
from scenarios.loading.load import load_scenario
from server_node.record import RESULTS
from sim.experiments.results import Mode
from sim.simulation.run import simulate

Pool = Callable[[], AbstractContextManager[Executor]]
Outcome = Future[dict[str, bytes]]

RUN_FILES = frozenset({"scenario.yaml", "environment.json", *RESULTS})
"""What a run that is over leaves."""

_one_at_a_time = threading.Lock()
"""A worker of Dask may have several threads; torch's number of threads is one setting for all of them."""


class PointError(Exception):
    """A point that failed; the text, in one line, says of what."""


def run_point(scenario_yaml: str, mode: Mode, unfinished: Path | None = None) -> dict[str, bytes]:
    """Run one point in a folder of its own; runs on a worker.

    Args:
        scenario_yaml: a resolved scenario.
        mode: whether to train.
        unfinished: the run folder; of a point that was begun before, if it is there. One that cannot be gone
            on from is begun anew. None: a temporary one.

    Returns:
        The files of the run folder by name.

    Raises:
        PointError: whatever went wrong.
    """
    with _one_at_a_time, tempfile.TemporaryDirectory() as scratch:
        file, folder = Path(scratch, "point.yaml"), unfinished or Path(scratch, "run")
        file.write_text(scenario_yaml)
        run = partial(simulate, timing_only=mode is Mode.TIMING_ONLY, threads=1)
        try:
            scenario = load_scenario(file)
            try:
                run(scenario, folder)
            except CannotGoOnError:
                run(scenario, folder, fresh=True)
        except Exception as error:  # noqa: BLE001  of a user's task, too: not every class can travel
            if not isinstance(error, AnotherServerError):  # the folder is another process's
                shutil.rmtree(folder, ignore_errors=True)
            text = " ".join(str(error).replace(f"{scratch}/", "").split())
            raise PointError(f"{type(error).__name__}: {text}") from None
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in RUN_FILES}


@contextmanager
def local_pool(processes: int) -> Iterator[Executor]:
    """Give processes of this machine; when left by an exception, they and their scratch are gone at once."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    with tempfile.TemporaryDirectory(prefix="fedlite-sweep-", ignore_cleanup_errors=True) as scratch:
        executor = ProcessPoolExecutor(processes, context, initializer=_begin_worker, initargs=(scratch,))
        try:
            yield executor
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
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
        StudyError: Dask is not installed, or no scheduler is there.
    """
    try:
        from distributed import Client  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise StudyError("--dask needs Dask: pip install 'fedlite-mqtt[dask]'") from error
    try:
        client: Any = Client(address)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise StudyError(f"--dask {address}: no Dask scheduler can be reached there: {error}") from error
    with client:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)
