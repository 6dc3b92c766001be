"""Threads that compute for an event loop."""

import asyncio
import threading
import time
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.machine.workers import Workers


@settings(max_examples=20, deadline=None)
@given(
    threads=st.integers(1, 4),
    jobs=st.lists(st.one_of(st.integers(), st.just("raises")), max_size=40),
)
def test_each_job_gives_what_it_returns_or_raises(threads: int, jobs: list[int | str]) -> None:
    def do(job: int | str) -> int:
        if job == "raises":
            raise LookupError(job)
        return 2 * int(job)

    async def all_of_them() -> list[int | BaseException]:
        with Workers(threads, "test") as workers:
            futures = [workers.run(lambda job=job: do(job)) for job in jobs]  # type: ignore[misc]
            return await asyncio.gather(*futures, return_exceptions=True)

    for job, result in zip(jobs, asyncio.run(all_of_them()), strict=True):
        assert isinstance(result, LookupError) if isinstance(job, str) else result == 2 * job


async def test_the_loop_goes_on_while_all_threads_are_busy() -> None:
    go_on = threading.Event()
    with Workers(2, "test") as workers:
        busy = [workers.run(lambda: go_on.wait(10)) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert not any(future.done() for future in busy)
        go_on.set()
        assert await asyncio.gather(*busy) == [True] * 3


async def test_as_many_jobs_run_at_once_as_there_are_threads() -> None:
    both = threading.Barrier(2, timeout=10)
    with Workers(2, "test") as workers:
        await asyncio.gather(workers.run(both.wait), workers.run(both.wait))


async def test_results_that_are_there_together_come_back_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    tell = Mock(wraps=loop.call_soon_threadsafe)
    monkeypatch.setattr(loop, "call_soon_threadsafe", tell)
    with Workers(1, "test") as workers:
        futures = [workers.run(lambda: None) for _ in range(50)]
        deadline_s = time.monotonic() + 10
        while len(workers._ended) < 50 and time.monotonic() < deadline_s:
            time.sleep(0.001)  # noqa: ASYNC251  the loop is busy
        await asyncio.gather(*futures)
    assert tell.call_count == 1


async def test_a_job_that_nobody_waits_for_is_not_begun_and_leaving_waits_for_the_others() -> None:
    began, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> None:
        began.set()
        go_on.wait(10)
        done.append("first")

    with Workers(1, "test") as workers:
        workers.run(first)
        began.wait(10)
        workers.run(lambda: done.append("cancelled")).cancel()
        workers.run(lambda: done.append("last"))
        go_on.set()
    assert done == ["first", "last"]
