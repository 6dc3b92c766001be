"""Which runs of a study still fit into its time: a run is taken to last as long as similar ones did."""

import math
import re
import time
from collections.abc import Callable, Iterable
from statistics import fmean

from broker.errors import StudyError
from sim.experiments.study.points import StudyRun

_UNITS_S = {"s": 1, "m": 60, "h": 3600}


def seconds_of(text: str) -> float:
    """Read a budget such as 15m, 3h, 0 or full, which has no end.

    Raises:
        StudyError: anything else.
    """
    if text == "full":
        return math.inf
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])|(0)", text)
    if match is None:
        raise StudyError(f"--budget {text}: must be like 90s, 15m or 3h, 0 for the report only, or full")
    return 0.0 if match[3] else float(match[1]) * _UNITS_S[match[2]]


class Budget:
    """The time that is left, and the time that runs take.

    Args:
        total_s: seconds from now; a run that would end later is not started.
        at_once: so many runs go on at the same time.
        clock: gives seconds.
    """

    def __init__(self, total_s: float, at_once: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._at_once = at_once
        self._end_s = clock() + total_s
        self._took_s: dict[tuple[str, ...], list[float]] = {}
        self._refused: set[tuple[str, str, int]] = set()

    def note(self, run: StudyRun, wall_s: float) -> None:
        """Learn what a run has taken."""
        for key in self._keys(run):
            self._took_s.setdefault(key, []).append(wall_s)

    def estimate_s(self, run: StudyRun) -> float | None:
        """Give the mean of the runs of its arm and task, else of its task, else of all; None before any."""
        known = next((self._took_s[key] for key in self._keys(run) if key in self._took_s), None)
        return fmean(known) if known else None

    def admits(self, run: StudyRun) -> bool:
        """Say whether a run would end in time. The first runs, of which nothing is known, may start.

        When a trained run is refused, so are the runs of the same arm, task and seed over other links: they
        give the time to a target, and only the trained run tells when that is reached.
        """
        what = (run.task.name, run.arm.name, run.seed)
        if self._clock() + (self.estimate_s(run) or 0.0) >= self._end_s:
            self._refused.add(what)
        return what not in self._refused

    def left_s(self, runs: Iterable[StudyRun]) -> float:
        """Give how long some runs will take, or what is left of the budget if that is less."""
        total_s = sum(self.estimate_s(run) or 0.0 for run in runs)
        return max(0.0, min(total_s / self._at_once, self._end_s - self._clock()))

    @staticmethod
    def _keys(run: StudyRun) -> list[tuple[str, ...]]:
        mode, task = run.grid_run.mode.value, run.task.name
        return [(mode, task, run.arm.name), (mode, task), (mode,)]
