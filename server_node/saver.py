"""Writes checkpoints beside the training: of rounds that are worth one, and the last one at a pause."""

import asyncio
import copy
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import msgspec
from torch import Tensor

from broker.errors import RunError
from server_node import checkpoint
from server_node.checkpoint import Progress, tensors_of, tensors_of_optimizers
from server_node.learning.replay import tensor_of
from server_node.ownership import Ownership
from server_node.record import RunFolder
from server_node.tail import Tail
from server_node.vocabulary.ledger import Ledger

log = logging.getLogger(__name__)

SHARE = 20.0
"""A checkpoint is written when so many times the seconds that one takes have passed since the last one."""


@dataclass(frozen=True)
class Snapshot:
    """A run at the end of a round.

    Attributes:
        progress: rows and ledger of that moment.
        tensors: copies of head and tail, and of what their optimizers remember.
    """

    progress: Progress
    tensors: Mapping[str, Tensor]


class Pace:
    """Lets something be written as often as it is worth: it takes at most one twentieth of the time.

    Args:
        clock: seconds.
        first_s: so long after the start nothing is worth it yet.

    Attributes:
        error: why the last try failed; None if it did not.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, first_s: float = 0.0) -> None:
        self._clock = clock
        self._not_before_s = clock() + first_s
        self.error: str | None = None

    @property
    def overdue_s(self) -> float:
        """Seconds since the next try became worth it; below 0 if it is not yet."""
        return self._clock() - self._not_before_s

    def attempt(self, write: Callable[[], None]) -> None:
        """Write now. A RunError is told, unless the last try failed too, and remembered."""
        start_s = self._clock()
        try:
            write()
        except RunError as error:
            if self.error is None:
                log.warning("the run goes on without a checkpoint: %s", error)
            self.error = str(error)
        else:
            self.error = None
        end_s = self._clock()
        self._not_before_s = end_s + SHARE * (end_s - start_s)


class Saver:
    """Writes the newest snapshots on a thread of its own, as often as it is worth.

    Writing takes at most one twentieth of the time, evaluations apart. When the disk is slower than the
    rounds, only the newest snapshot waits; so at most two are in memory.

    Args:
        write: writes one; may raise RunError, which is told and remembered in `error`.
        clock: seconds.
    """

    def __init__(
        self, write: Callable[[Snapshot], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write = write
        self._pace = Pace(clock)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._lock = Lock()
        self._newest: Snapshot | None = None
        self._worth_it = False

    @property
    def error(self) -> str | None:
        """Why the last try failed; None if it did not."""
        return self._pace.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disk.shutdown()

    def offer(self, snapshot: Snapshot, *, must: bool) -> Future[None]:
        """Take the snapshot of a round.

        Args:
            snapshot: the newest.
            must: write it, or a newer one, in any case.

        Returns:
            What has the exception if writing raises another one than RunError.
        """
        with self._lock:
            self._newest = snapshot
            self._worth_it |= must
        return self._disk.submit(self._turn)

    def write_last(self) -> Future[None]:
        """Write the newest snapshot if it was not written yet."""
        with self._lock:
            self._worth_it = True
        return self._disk.submit(self._turn)

    def _turn(self) -> None:
        with self._lock:
            if self._newest is None or not (self._worth_it or self._pace.overdue_s >= 0):
                return
            snapshot, self._newest, self._worth_it = self._newest, None, False
        self._pace.attempt(lambda: self._write(snapshot))


class Keeper:
    """Copies the model at the end of each round, on the tail's thread, and gives the copies to a Saver.

    The copy is that of a moment between two rounds. So a run that is paused in the middle of a round goes on
    from that round's beginning, and no step counts twice.

    Args:
        folder: the run folder.
        owner: is asked before each write.
        record: of the run, for its rows.
        worker: has head and tail.
        settings: see Progress.

    Attributes:
        thread: the tail's.
        tensors: head and tail after the last round.
    """

    def __init__(
        self, folder: Path, owner: Ownership, record: RunFolder, worker: Tail, settings: dict[str, Any]
    ) -> None:
        self._folder = folder
        self._owner = owner
        self._record = record
        self._worker = worker
        self._settings = settings
        self._saver = Saver(self._write)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="tail")
        self.tensors: Mapping[str, Tensor] = tensors_of(worker.head, worker.tail)

    @property
    def error(self) -> str | None:
        """Why the last checkpoint could not be written; None if it could."""
        return self._saver.error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.thread.shutdown()
        self._saver.__exit__(kind, error, trace)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Raise in this block what writing raises, except that a checkpoint cannot be written.

        Raises:
            ExceptionGroup: of SupersededError, or of bugs.
        """
        async with asyncio.TaskGroup() as self._tasks:
            yield

    def keep(self, ledger: Ledger, *, must: bool) -> None:
        """Keep the model and what was counted at the end of a round; call it in the moment of its report.

        Args:
            ledger: a copy.
            must: write it to the disk in any case.
        """
        progress = Progress(self._settings, list(self._record.rows), ledger)
        # Handed over at once: after the round's jobs, before the next ones change the model.
        copying = self.thread.submit(self._copy, progress, must=must)
        self._tasks.create_task(_settled(copying))

    async def write_last(self) -> None:
        """Write the end of the last round, unless it is on the disk already.

        Raises:
            SupersededError: the folder is another server's.
        """
        await asyncio.wrap_future(self._saver.write_last())

    def _copy(self, progress: Progress, *, must: bool) -> Future[None]:
        self.tensors = tensors_of(self._worker.head, self._worker.tail)
        progress = msgspec.structs.replace(progress, filter=copy.deepcopy(self._worker.filter))
        tensors = {**self.tensors, **tensors_of_optimizers(*self._worker.moments)}
        tensors |= tensor_of(self._worker.replay.kept)
        return self._saver.offer(Snapshot(progress, tensors), must=must)

    def _write(self, snapshot: Snapshot) -> None:
        self._owner.check()
        checkpoint.save(self._folder, snapshot.progress, snapshot.tensors, still_ours=self._owner.check)


async def _settled(copying: Future[Future[None]]) -> None:
    while not copying.done():
        await asyncio.wait({asyncio.wrap_future(copying)})
    await asyncio.wrap_future(copying.result())
