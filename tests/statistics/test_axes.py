"""Marks of axes are round numbers of the unit that they are written in."""

import re
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from sim.statistics.axes import Tick, axis_of, tick_of_bytes, tick_of_seconds

ROUND = re.compile(r"[1235]0*|0\.0*[125]|12|0|[\d.]+e[+-]\d+")


def marks(low: float, high: float, form: Tick, which: Literal["x", "y"] = "y") -> list[str]:
    """Give what is written at a logarithmic axis from low to high."""
    axes = Figure().subplots()
    axes.plot([low, high], [low, high])
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis_of(axes, which, "", form, logarithmic=True)
    axis = axes.xaxis if which == "x" else axes.yaxis
    shown = [place for place in axis.get_majorticklocs() if low <= place <= high]
    return [axis.get_major_formatter()(place, None) for place in shown]


@given(low=st.floats(1e-5, 1e6), times=st.floats(6, 1e6))
def test_a_logarithmic_axis_of_time_has_a_few_round_numbers(low: float, times: float) -> None:
    written = marks(low, low * times, tick_of_seconds)
    assert 1 <= len(written) <= 7
    assert len(set(written)) == len(written)
    assert all(ROUND.fullmatch(text.split()[0]) for text in written), written


@pytest.mark.parametrize(
    ("low_s", "high_s", "written"),
    [
        (20, 400, ["30 s", "1 min", "2 min", "5 min"]),
        (0.3, 5, ["500 ms", "1 s", "2 s", "5 s"]),
        (5, 90_000, ["10 s", "1 min", "10 min", "1 h", "1 d"]),
    ],
)
def test_minutes_and_hours_are_round(low_s: float, high_s: float, written: list[str]) -> None:
    assert marks(low_s, high_s, tick_of_seconds) == written


def test_a_unit_begins_with_one_of_it() -> None:
    assert marks(3e5, 3e6, tick_of_bytes, "x") == ["500 kB", "1 MB", "2 MB"]
