"""Processes that compute beside the one that is measured, as other devices on its machine will."""

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Semaphore

import torch
from threadpoolctl import threadpool_limits

from broker.errors import UserError
from edge_client.training.calibrate import timed_batches
from scenarios.schema.scenario import Scenario

_LOOK_S = 0.2


class CompanionError(UserError):
    """A process that should be at work is not."""


@contextmanager
def others_at_work(count: int, scenario: Scenario, threads: int, cut: str | None = None) -> Iterator[None]:
    """Let so many other processes train one batch after another, without a pause, until the context ends.

    Args:
        count: of them; 0: nothing is started.
        scenario: gives task, codecs and batch size.
        threads: of each.
        cut: layer of an early cut.

    Raises:
        CompanionError: one has ended before all were at work.
    """
    context = multiprocessing.get_context("spawn")
    at_work = context.Semaphore(0)
    others = [
        context.Process(target=_work, args=(scenario, threads, cut, at_work), daemon=True)
        for _ in range(count)
    ]
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)  # they inherit it: Ctrl-C is for this process alone
    try:
        for other in others:
            other.start()
        signal.signal(signal.SIGINT, ours)
        for _ in others:
            while not at_work.acquire(timeout=_LOOK_S):
                _check(others)
        yield
        _check(others)
    finally:
        signal.signal(signal.SIGINT, ours)
        for other in others:
            if other.pid is not None:
                other.kill()
                other.join()


def _check(others: list[multiprocessing.context.SpawnProcess]) -> None:
    codes = [other.exitcode for other in others if other.exitcode is not None]
    if codes:
        raise CompanionError(
            f"{len(codes)} of {len(others)} processes beside this one ended with {codes[0]}; "
            "is there memory for all of them? take a smaller --at-work"
        )


def _work(scenario: Scenario, threads: int, cut: str | None, at_work: Semaphore) -> None:
    torch.set_num_threads(threads)
    with threadpool_limits(1, user_api="blas"):
        batches = timed_batches(scenario, 0.0, cut)
        next(batches)
        at_work.release()
        for _ in batches:
            pass
