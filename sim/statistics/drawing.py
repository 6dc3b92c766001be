"""How charts look: one drawing for the page, where it follows the reader's light or dark, and for papers."""

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.markers import MarkerStyle
from matplotlib.textpath import text_to_path

# Okabe and Ito's colours, which the colour-blind can tell apart; styles and marks tell them apart in grey
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#767676")
STYLES = (
    "-",
    (0, (5, 1.5)),
    (0, (1, 1)),
    (0, (5, 1, 1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (8, 2)),
    (0, (2, 2)),
)
MARKS = "osD^vPX"

INK, SOFT, LINE = "#1a1a1a", "#5c6066", "#dfe1e5"
_VARIABLES = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", "#ffffff": "var(--paper)"}

COLUMN_IN = 3.3
"""Width of a column of a paper, and of a chart on the page."""

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "lines.markersize": 3,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": LINE,
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # journals refuse others
    "text.parse_math": False,  # names may have dollars
    "svg.hashsalt": "fedlite",
}

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_MARKS_SVG = (f"{{{_SVG}}}use", f"{{{_SVG}}}path")
ET.register_namespace("", _SVG)
ET.register_namespace("xlink", _LINK)


@dataclass(frozen=True, slots=True)
class Key:
    """A line of a legend."""

    name: str
    colour: str
    style: Any = "-"
    mark: str = ""


Hovers = dict[str, list[str]]
"""What appears under the pointer: by an artist's gid, the texts of its marks, or one of it as a whole."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Something to draw.

    Attributes:
        name: of its files.
        title: a line above it; may be empty.
        draw: draws it on axes, and says what appears under the pointer.
        keys: its legend; one of at most one line is not shown.
        height_in: without the legend.
    """

    name: str
    title: str
    draw: Callable[[Axes], Hovers]
    keys: Sequence[Key] = ()
    height_in: float = 2.1


def on_page(chart: Chart, place: str) -> str:
    """Draw a chart as SVG to stand in a page, which has its legend and the variables of its colours.

    The same chart gives the same text.

    Args:
        chart: to draw.
        place: on the page; no other chart has it.
    """
    with _styled({"svg.fonttype": "none", "svg.hashsalt": place}):
        figure, hovers = _drawn(chart, title=False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    root = ET.fromstring(text.getvalue())  # noqa: S314  our own
    _tell(root, hovers)
    _without_what_nothing_refers_to(root)
    root.attrib |= {"role": "img", "class": "chart", "aria-label": chart.title or chart.name}
    for size in ("width", "height"):
        del root.attrib[size]
    svg = ET.tostring(root, encoding="unicode")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return svg


def write_figures(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Write charts as PDF, SVG and PNG (300 dpi) in a column's width; the same ones give the same files."""
    files = []
    for chart in charts:
        with _styled({}):
            figure, _ = _drawn(chart, title=True, legend=True)
            for kind in ("pdf", "svg", "png"):
                file = folder / f"{chart.name}.{kind}"
                clock = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {}}[kind]
                figure.savefig(file, format=kind, dpi=300, metadata=clock)
                files.append(file)
    return files


def file_name(*parts: str) -> str:
    """Make a file's name, without an ending, of words."""
    return re.sub(r"[^a-z0-9.=]+", "-", "-".join(filter(None, parts)).lower()).strip("-.")[:80]


def mark_of(number: int) -> tuple[str, Any, str]:
    """Give colour, line style and mark of the n-th line of a chart; all three differ from the next ones'."""
    turn = number // len(COLOURS)
    return (
        COLOURS[number % len(COLOURS)],
        STYLES[(number + turn) % len(STYLES)],
        MARKS[(number + 2 * turn) % 7],
    )


@contextmanager
def _styled(more: Mapping[Any, Any]) -> Iterator[None]:
    with rc_context({**_STYLE, **more}):
        yield


def _drawn(chart: Chart, *, title: bool, legend: bool = False) -> tuple[Figure, Hovers]:
    lines = [key for key in chart.keys if len(chart.keys) > 1] if legend else []
    names = [_fitting(key.name, COLUMN_IN - 0.5, _STYLE["legend.fontsize"]) for key in lines]
    head = _fitting(chart.title, 0.75 * COLUMN_IN, _STYLE["axes.titlesize"]) if title else ""
    rows = sum(name.count("\n") + 1 for name in names) + (head.count("\n") + 1) * title
    figure = Figure(figsize=(COLUMN_IN, chart.height_in + 0.15 * rows), layout="constrained")
    axes = figure.subplots()
    axes.grid(visible=True)
    hovers = chart.draw(axes)
    axes.set_title(head)
    for axis, room_in in ((axes.xaxis, 0.7 * COLUMN_IN), (axes.yaxis, 0.75 * chart.height_in)):
        axis.set_label_text(_fitting(axis.get_label_text(), room_in, _STYLE["axes.labelsize"]))
    if lines:
        handles = [Line2D([], [], color=key.colour, linestyle=key.style, marker=key.mark) for key in lines]
        figure.legend(handles, names, loc="outside lower left", ncols=1)
    return figure, hovers


def _fitting(text: str, room_in: float, size_pt: float) -> str:
    """Break a text into lines for which there is room."""
    lines, letters, font = [text], len(text), FontProperties(size=size_pt)
    while letters > 1 and any(_width_pt(line, font) > 72 * room_in for line in lines):
        letters -= 1 + letters // 20
        lines = wrap(text, letters)
    return "\n".join(lines)


def _width_pt(text: str, font: FontProperties) -> float:
    width_pt, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width_pt)


def _tell(root: ET.Element, hovers: Hovers) -> None:
    """Give marks a title, which browsers show under the pointer."""
    for group in root.iter(f"{{{_SVG}}}g"):
        texts = hovers.get(group.get("id", ""))
        if texts is None:
            continue
        shapes = {element for defs in group.iter(f"{{{_SVG}}}defs") for element in defs.iter()}
        drawn = [each for each in group.iter() if each.tag in _MARKS_SVG and each not in shapes]
        marks = drawn if len(drawn) == len(texts) else [group]
        for mark, text in zip(marks, texts, strict=False):
            title = ET.Element(f"{{{_SVG}}}title")
            title.text = text
            mark.insert(0, title)


def _without_what_nothing_refers_to(root: ET.Element) -> None:
    """Take away metadata, and names that are no target: two charts of a page have the same ones."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (
                f"{{{_SVG}}}metadata",
                f"{{{_SVG}}}style",
            ):  # a style would be one of the whole page
                parent.remove(child)
    targets = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', ET.tostring(root, encoding="unicode")))
    for element in root.iter():
        if element.get("id", "") not in targets:
            element.attrib.pop("id", None)


def swatch(key: Key) -> str:
    """Draw a legend's line and mark as SVG."""
    dashes = "" if isinstance(key.style, str) else " ".join(f"{1.6 * part:g}" for part in key.style[1])
    line = (
        f'<path d="M0 8H44" stroke="{key.colour}" stroke-width="2.4" stroke-dasharray="{dashes}"/>'
        if key.style != "none"
        else ""
    )
    mark = ""
    if key.mark:
        style = MarkerStyle(key.mark)
        outline = style.get_path().transformed(style.get_transform())
        for polygon in map(np.asarray, outline.to_polygons()):
            points = " ".join(f"{22 + 11 * x:.1f},{8 - 11 * y:.1f}" for x, y in polygon.tolist())
            mark += f'<polygon points="{points}" fill="{key.colour}"/>'
    return f'<svg viewBox="0 0 44 16" aria-hidden="true">{line}{mark}</svg>'
