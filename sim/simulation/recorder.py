"""Has the jobs of a simulated run done, and keeps what a later process needs to go on; or is that process."""

import sys
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import msgspec

from broker.errors import CannotGoOnError
from broker.machine.actions import J, R
from edge_client.jobs import FirstBatch
from server_node.vocabulary.jobs import HeadEncoded, RoundClosed, TailForward
from sim.simulation.job_log import Result, belongs, record_of, result_of, tensors_in
from sim.simulation.job_records import Content, Record

RunJob = Callable[[J], R | Future[R]]
"""Does a job and gives its result, or a Future of it."""

SHORT_BYTES = 64
"""Tensors up to here stay in the records."""

_ARRAY_32 = b"\xdd"
"""Begins an array in msgpack; its length follows in 4 bytes."""

_HEADER_BYTES = 5

Place = tuple[int, int]
"""Number of a job, and number of a tensor in its result."""

Laid = dict[int, tuple[bytes, list[Place]]]
"""Tensors by their id, and where they come from."""


class Hollow(bytes):
    """Stands for the bytes of a tensor that nobody reads any more, and has their length."""

    __slots__ = ()


class Recorder:
    """Hands the jobs of a run to threads, in their order, and keeps the records of their results.

    The bytes of a tensor are kept as long as a job may still read them. That is until a job has read them, or
    until nothing of the run holds them any more: a batch that came too late is read by no job. Heads are read
    by many jobs, the batches of a U-shape by two.

    Attributes:
        hollow: where devices get parts of a head: makes of its payload one without values, whose parts are
            as long. Those are what the messages of a run that is repeated need.

    Args:
        log: records of an earlier process, as `log` gives them: the first jobs get their results from there,
            at once, and are not done again.
        tensors: that the run held when that process wrote them. The list is emptied: whoever held it would
            keep them all.
    """

    def __init__(self, log: bytes = b"", tensors: list[tuple[Place, bytes]] | None = None) -> None:
        self._log = bytearray(log[_HEADER_BYTES:])
        self._told: list[Record] = msgspec.msgpack.decode(log, type=list[Record]) if log else []
        self.hollow: Callable[[bytes], bytes] | None = None
        self.jobs = 0
        self._logged = len(self._told)
        self._records: dict[int, bytes] = {}  # of jobs that are not in the log yet
        self._under_way: set[Future[Any]] = set()
        self._laid: Laid = {}
        self._lock = threading.Lock()
        self._of_place: dict[Place, bytes] = {}
        while tensors:
            place, self._of_place[place] = tensors.pop()
            self._lay(place, self._of_place[place])

    @property
    def jobs_done(self) -> int:
        """Jobs that were really done; below 0 while results come from the records of an earlier process."""
        return self.jobs - len(self._told)

    def on(self, pool: ThreadPoolExecutor, run: Callable[[J], R]) -> RunJob[J, R]:
        """Give what takes the jobs of a worker.

        Args:
            pool: does them.
            run: does one.
        """
        return partial(self._take, pool, run)

    def _take(self, pool: ThreadPoolExecutor, run: Callable[[Any], Any], job: Any) -> Any:
        number, self.jobs = self.jobs, self.jobs + 1
        if number < len(self._told):
            return self._told_result(number, job)
        for content in tensors_in(job):
            assert not isinstance(content, Hollow), f"{type(job).__name__} reads a tensor that was not kept"
            if not isinstance(job, FirstBatch | TailForward):
                self._laid.pop(id(content), None)
        future = pool.submit(self._do, number, run, job)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def _do(self, number: int, run: Callable[[Any], Result], job: Any) -> Result:
        result = run(job)
        tensors = 0

        def lay_by(content: bytes) -> Content:
            nonlocal tensors
            if len(content) <= SHORT_BYTES:
                return content
            self._lay((number, tensors), content)
            tensors += 1
            if self.hollow is not None and isinstance(result, HeadEncoded | RoundClosed):
                return (zlib.compress(self.hollow(content), 1),)
            return len(content)

        self._records[number] = msgspec.msgpack.encode(record_of(result, lay_by))
        return result

    def _lay(self, place: Place, content: bytes) -> None:
        with self._lock:
            self._laid.setdefault(id(content), (content, []))[1].append(place)

    def _told_result(self, number: int, job: Any) -> Result:
        record = self._told[number]
        if not belongs(record, job):
            raise other_code(f"job {number} is {type(job).__name__}, not what it was")
        tensors = 0

        def fetch(content: Content) -> bytes:
            nonlocal tensors
            if isinstance(content, bytes):
                return content
            tensors += 1
            kept = self._of_place.pop((number, tensors - 1), None)
            if kept is not None:
                return kept
            return Hollow(zlib.decompress(content[0]) if isinstance(content, tuple) else content)

        return result_of(record, fetch)

    def settle(self) -> bool:
        """Wait until all jobs are done; says whether none has failed."""
        wait(set(self._under_way))
        return self._logged + len(self._records) == self.jobs

    def forget(self) -> None:
        """Forget the tensors that nothing holds any more."""
        with self._lock:
            for key in [key for key in self._laid if _holders(self._laid, key) <= _ALONE]:
                del self._laid[key]

    def tensors(self) -> list[tuple[Place, bytes]]:
        """Give the tensors that a job may still read; call it when all jobs are done."""
        self.forget()
        return [(place, content) for content, places in self._laid.values() for place in places]

    def log(self) -> bytes:
        """Give the records of all jobs as an array in msgpack; call it when all jobs are done."""
        for number in range(self._logged, self.jobs):
            self._log += self._records.pop(number)
        self._logged = self.jobs
        return _ARRAY_32 + self.jobs.to_bytes(4, "big") + self._log


def other_code(what: str) -> CannotGoOnError:
    """Make the error of records that are not those of this run."""
    return CannotGoOnError(
        f"the checkpoint was written by other code than this, and cannot be gone on from ({what}); "
        "--fresh begins the run anew"
    )


def _holders(laid: Laid, key: int) -> int:
    return sys.getrefcount(laid[key][0])


def _references_when_alone() -> int:
    content = bytes(SHORT_BYTES + 1)
    laid: Laid = {0: (content, [])}
    del content
    return _holders(laid, 0)


_ALONE = _references_when_alone()
"""References that Python counts when nothing but a table holds a tensor; more is never too little."""
