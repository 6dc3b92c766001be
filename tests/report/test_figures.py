"""Figures for papers: nothing is cut off, and they show what the tables beside them say."""

import csv
import math
import random
import re
import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from server_node.vocabulary.ledger import CONTROL, FLOWS
from sim.report.tidy import write_tables
from sim.statistics.comparison import compare
from sim.statistics.curve_charts import along
from sim.statistics.drawing import COLOURS, COLUMN_IN, Chart, Key, write_figures
from sim.statistics.trials import Trial

SVG = "{http://www.w3.org/2000/svg}"
UNITS = {"": 1.0, "B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0}
T_OF_THREE = 4.302653
"""Student's t, two degrees of freedom, 95 % between minus and plus."""

NEAR_PT = 0.2
"""What a line may be off: it is drawn by fewer points than it has."""

Point = tuple[float, float]


# labels


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Figure, Bbox]]:
    """Note each figure instead of writing it, and how far it reaches, in inches."""
    figures: list[tuple[Figure, Bbox]] = []

    def note(figure: Figure, *_: object, format: str, **__: object) -> None:  # noqa: A002  its name there
        if format == "svg":
            figure.draw_without_rendering()
            figures.append((figure, figure.get_tightbbox()))

    monkeypatch.setattr(Figure, "savefig", note)
    return figures


def name(draws: random.Random, most: int = 80) -> str:
    """Make a name of wide and narrow letters, of one word or of many."""
    letters = "".join(draws.choices("iWmpq_", k=draws.randrange(1, most)))
    return letters if draws.random() < 0.3 else letters.replace("p", " ").replace("q", ", ")[:most].strip()


@pytest.mark.parametrize("seed", range(8))
def test_whatever_things_are_called_nothing_is_cut_off(drawn: list[tuple[Figure, Bbox]], seed: int) -> None:
    draws = random.Random(seed)

    def draw(axes: Axes) -> dict[str, list[str]]:
        axes.plot([0, 1], [0, 1])
        axes.set(xlabel=name(draws), ylabel=name(draws, 60))
        return {}

    keys = [Key(name(draws), "#000000"), Key(name(draws), "#000000")]
    write_figures([Chart("x", name(draws), draw, keys)], Path())
    [(figure, shown)] = drawn
    width, height = figure.get_size_inches()
    assert width == COLUMN_IN
    assert min(shown.x0, shown.y0, width - shown.x1, height - shown.y1) >= 0


def test_a_title_that_fits_stays_on_one_line(drawn: list[tuple[Figure, Bbox]]) -> None:
    title = "uplink 4000 kbit/s, gradient down int8"
    write_figures([Chart("x", title, lambda _: {})], Path())
    assert drawn[0][0].axes[0].get_title() == title


# values


class Plot:
    """What an SVG file shows, in points.

    Attributes:
        x: reads the x axis at a point, by the numbers that are written there.
        y: reads the y axis.
    """

    def __init__(self, file: Path) -> None:
        builder = ET.TreeBuilder(insert_comments=True)
        self._root = ET.fromstring(file.read_text(), ET.XMLParser(target=builder))
        self.x, self.y = self._axis("x"), self._axis("y")

    def _axis(self, way: str) -> Callable[[float], float]:
        places: list[tuple[float, float]] = []
        for group in self._named(f"{way}tick_"):
            texts = [str(each.text) for each in group.iter() if not isinstance(each.tag, str)]  # comments
            if texts:  # marks between the powers of ten have none
                number, _, unit = texts[0].strip().replace("\N{MINUS SIGN}", "-").partition(" ")
                places.append((_places(next(group.iter(f"{SVG}use")))[way], float(number) * UNITS[unit]))
        (a, least), *_, (b, most) = places
        if way == "y" or least == 0:
            return lambda at: least + (at - a) / (b - a) * (most - least)
        return lambda at: least * (most / least) ** ((at - a) / (b - a))  # a logarithmic axis

    def _named(self, begin: str) -> list[ET.Element]:
        return [each for each in self._root.iter(f"{SVG}g") if each.get("id", "").startswith(begin)]

    def marks(self, number: int) -> list[Point]:
        """Give the marks of the so-and-so-many-th line."""
        [group] = self._named(f"mark-{number}")
        return [(place["x"], place["y"]) for place in map(_places, group.iter(f"{SVG}use"))]

    def line(self, colour: str) -> list[Point]:
        """Give the corners of the line of a colour."""
        [path] = [
            path
            for path in self._named("axes_1")[0].findall(f"{SVG}g/{SVG}path")
            if f"stroke: {colour}" in path.get("style", "")
        ]
        return _corners(path)

    def band(self, number: int) -> list[Point]:
        """Give the corners of the so-and-so-many-th band."""
        group = self._named("FillBetween")[number]
        shift = _places(next(group.iter(f"{SVG}use")))
        return [(x + shift["x"], y + shift["y"]) for x, y in _corners(next(group.iter(f"{SVG}path")))]


def _places(use: ET.Element) -> dict[str, float]:
    return {way: float(use.get(way, "nan")) for way in "xy"}


def _corners(path: ET.Element) -> list[Point]:
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path.get("d", ""))]


def trials(draws: random.Random) -> list[Trial]:
    """Give three seeds of two policies, which have a part of their time and bytes in common."""
    found = []
    scale_s, scale_bytes = draws.choice([0.1, 7.0, 900.0]), draws.choice([300, 40_000, 10**7])
    for policy, slower in (("wait_all", 1.0), ("deadline", draws.choice([1.0, 4.0, 50.0]))):
        begins, ends = draws.uniform(0.1, 1.0), draws.uniform(1.5, 4.0)
        for seed in range(3):
            inner = sorted(draws.uniform(begins, ends) for _ in range(draws.randrange(4)))
            rounds: list[dict[str, Any]] = []
            for at in (begins, *inner, ends):
                for late, metric in ((0.0, draws.random()), (0.01, None)):
                    sizes = {
                        f"{name}_wire_bytes": int((at + late) * scale_bytes) for name in (*FLOWS, CONTROL)
                    }
                    seconds = (at + late) * slower * scale_s
                    rounds.append({"round": len(rounds) + 1, "elapsed_s": seconds, "metric": metric, **sizes})
            found.append(
                Trial({"policy": policy}, seed, f"{policy}-{seed}", "virtual", "accuracy", metric=0.5,
                      seconds=1.0, bytes=1, rounds=rounds)
            )  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(3))
def test_lines_marks_and_bands_are_what_the_table_says(tmp_path: Path, seed: int) -> None:
    comparison = compare(trials(random.Random(seed)))
    write_figures(along(comparison), tmp_path)
    write_tables(comparison, tmp_path, None, None)
    with (tmp_path / "curves.csv").open() as text:
        rows = [row for row in csv.DictReader(text) if row["metric"]]
    for what, column in (("time", "seconds"), ("bytes", "bytes")):
        plot = Plot(tmp_path / f"accuracy-over-{what}.svg")
        for number, policy in enumerate(("wait_all", "deadline")):
            curves: dict[str, list[Point]] = defaultdict(list)
            for row in rows:
                if row["policy"] == policy:
                    curves[row["seed"]].append((float(row[column]), float(row["metric"])))
            where = (what, policy)
            marks = plot.marks(number)
            assert len(marks) >= 8, where
            assert all(fits(plot, point, curves, [mean]) for point in marks), where
            assert all(fits(plot, point, curves, [mean]) for point in plot.line(COLOURS[number])), where
            assert all(fits(plot, point, curves, [low, high]) for point in plot.band(number)), where


def fits(
    plot: Plot, point: Point, curves: dict[str, list[Point]], of: list[Callable[[list[float]], float]]
) -> bool:
    """Say whether a point is where one of these statistics of the seeds' curves is, or next to it."""
    x, y = point
    around = [
        [
            float(np.interp(plot.x(x + shift), [cost for cost, _ in curve], [metric for _, metric in curve]))
            for curve in curves.values()
        ]
        for shift in (-NEAR_PT, 0.0, NEAR_PT)
    ]
    found = [plot.y(y - NEAR_PT), plot.y(y + NEAR_PT)]
    values = [list(map(each, around)) for each in of]
    return any(min(each) <= max(found) and max(each) >= min(found) for each in values)


def low(values: list[float]) -> float:
    return fmean(values) - T_OF_THREE * stdev(values) / math.sqrt(3)


def mean(values: list[float]) -> float:
    return fmean(values)


def high(values: list[float]) -> float:
    return fmean(values) + T_OF_THREE * stdev(values) / math.sqrt(3)
