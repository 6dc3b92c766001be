"""A few threads that compute for one event loop."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Self, TypeVar

R = TypeVar("R")


class Workers:
    """Threads that do jobs, from when it is entered until it is left; for the thread of one event loop.

    `loop.run_in_executor` does the same for about 100 us a job, which is more than a small model computes
    for one. Here a job is an entry in a queue, and all results that are ready at the same time come back to
    the loop together.

    Args:
        count: of the threads.
        name: of the threads, for debuggers.
    """

    def __init__(self, count: int, name: str) -> None:
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = SimpleQueue()
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_told = False  # the loop will look at what has ended
        self._threads = [threading.Thread(target=self._work, name=f"{name}_{i}") for i in range(count)]

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        """Wait for the jobs that are being done; those that nobody waits for any more are not begun."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def run(self, work: Callable[[], R]) -> asyncio.Future[R]:
        """Call a function on one of the threads; the future gets what it returns or raises."""
        future: asyncio.Future[R] = self._loop.create_future()
        self._jobs.put((work, future))
        return future

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, future = job
            if future.cancelled():
                continue
            result, error = None, None
            try:
                result = work()
            except BaseException as raised:  # noqa: BLE001  it is for whoever waits for the result
                error = raised
            self._ended.append((future, result, error))
            del work, job, future, result, error  # an idle thread holds no batch
            if not self._is_told:
                self._is_told = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False  # first: what ends from here on tells the loop again
        while self._ended:
            future, result, error = self._ended.popleft()
            if future.cancelled():
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
