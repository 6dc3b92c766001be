"""Which numbers stand at an axis, and how they are written: 20 MB, 5 min."""

from collections.abc import Callable, Sequence
from math import log10
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

_FEW = 2
"""Decades of a logarithmic axis that also has numbers between the powers of ten."""

_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
_SECONDS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
_SOME = 2
"""A unit is taken where the axis has so many of it."""

_ROOM = 7
"""Marks of a logarithmic axis of seconds."""

_PARTS_S = [digit * 10.0**power for power in range(-6, 0) for digit in (1, 2, 5)]
_DAYS = [digit * 10.0**power for power in range(6) for digit in (1, 2, 5)]
_FINE_S = [
    size * count
    for size, counts in ((1, [*_PARTS_S, 1, 2, 5, 10, 30]), (60, [1, 2, 5, 10, 30]), (3600, [1, 2, 5, 12]),
                         (86_400, _DAYS))
    for count in counts
]  # fmt: skip
_COARSE_S = [
    size * count
    for size, counts in ((1, [*_PARTS_S[::3], 1, 10]), (60, [1, 10]), (3600, [1]), (86_400, _DAYS[::3]))
    for count in counts
]

Tick = Callable[[float, float], str]
"""Writes the number at a mark of an axis; the second one is the axis' largest, which decides on the unit."""


def tick_of_bytes(size_bytes: float, most_bytes: float) -> str:
    """Write the bytes at a mark of an axis, such as 50 MB."""
    return _in_unit(size_bytes, most_bytes, _BYTES)


def tick_of_seconds(seconds: float, most_s: float) -> str:
    """Write the seconds at a mark of an axis, such as 20 s."""
    return _in_unit(seconds, most_s, _SECONDS)


def plain_tick(number: float, _most: float) -> str:
    """Write a number at a mark of an axis."""
    return f"{number:.6g}"


def _in_unit(number: float, most: float, units: Sequence[tuple[float, str]]) -> str:
    size, unit = _unit(most, units)
    return f"{number / size:.4g} {unit}" if number else "0"


def _unit(most: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    return next((each for each in units if abs(most) >= _SOME * each[0]), units[-1])


def axis_of(axes: Axes, which: Literal["x", "y"], label: str, form: Tick, *, logarithmic: bool) -> None:
    """Label an axis, and write its numbers in words."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xlabel if which == "x" else axes.set_ylabel)(label)
    if logarithmic:
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
        axis.set_major_locator(
            LogLocator(subs=(1.0,) if _decades(axes, which) > _FEW else (1.0, 2.0, 5.0), numticks=6)
        )
        axis.set_minor_formatter(NullFormatter())
    else:
        marks = MaxNLocator(4 if which == "x" else 6, steps=[1, 2, 2.5, 5, 10])
        axis.set_major_locator(marks)
        if form is tick_of_seconds:  # round numbers of the unit, not of seconds
            low, high = _limits(axes, which)
            size, _ = _unit(max(abs(low), abs(high)), _SECONDS)
            axis.set_major_locator(
                FixedLocator([size * mark for mark in marks.tick_values(low / size, high / size)])
            )
    if form is tick_of_seconds and logarithmic:
        axis.set_major_locator(FixedLocator(_round_seconds(*_limits(axes, which))))
        axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(
            lambda x, _: form(x, _SOME * abs(x) if logarithmic else max(map(abs, _limits(axes, which))))
        )
    )


def _limits(axes: Axes, which: str) -> tuple[float, float]:
    return axes.get_xlim() if which == "x" else axes.get_ylim()


def _round_seconds(low_s: float, high_s: float) -> list[float]:
    """Choose the marks of a logarithmic axis: as many round numbers of whole units as have room."""
    inside = [[mark for mark in marks if low_s <= mark <= high_s] for marks in (_FINE_S, _COARSE_S)]
    marks = next((some for some in inside if len(some) <= _ROOM), inside[-1])
    return marks[:: -(-len(marks) // _ROOM) or 1]


def _decades(axes: Axes, which: str) -> float:
    low, high = _limits(axes, which)
    return log10(high / low) if low > 0 else 0.0
