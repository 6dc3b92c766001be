"""Joins charts, words and tables to one page that needs nothing from anywhere else."""

from collections.abc import Sequence
from importlib.resources import files
from itertools import chain
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from broker.files import atomic_write, writing
from sim.report import words
from sim.report.compared import compared_runs, compared_sweep
from sim.report.runs import Run, Sweep, read_all
from sim.report.sections import Section, of_runs, of_settings
from sim.report.tidy import write_tables
from sim.statistics.drawing import Chart, Key, on_page, swatch, write_figures


def write_report(
    folders: Sequence[Path],
    out: Path | None,
    *,
    by: str | None = None,
    target: float | None = None,
    figures: Path | None = None,
) -> list[Path]:
    """Write the page about runs and sweeps, and figures if wanted.

    Args:
        folders: of runs and sweeps.
        out: the file; by default report.html, in the folder if there is one, else here.
        by: key whose values are compared; the one that matters most if not given.
        target: of the metric, whose cost is told; by default the best that all runs reached.
        figures: folder for the charts of the page, and for tables.

    Returns:
        The page, and the folder of figures.

    Raises:
        ReportError: a folder lacks a file, or holds one that cannot be read.
        RunError: something cannot be written.
        StudyError: nothing differs in the key `by`.
    """
    runs, sweeps = read_all(folders)
    compared = [compared_runs(runs, target)] if runs else []
    compared += [compared_sweep(sweep, by, target) for sweep in sweeps]
    file = out or (folders[0] if len(folders) == 1 else Path()) / "report.html"
    sections = [
        of_runs(runs, each) if runs and each is compared[0] else of_settings(each) for each in compared
    ]
    page = _render(runs, sweeps, [*chain(*sections)])
    with writing(file), atomic_write(file) as part:
        part.write_text(page, encoding="utf-8")
    if figures is None:
        return [file]
    for each, own in zip(compared, sections, strict=True):
        place = figures / each.name if len(compared) > 1 else figures
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
            write_figures([chart for section in own for chart in section.charts], place)
            write_tables(each.comparison, place, each.target, each.at_s)
    return [file, figures]


def _render(runs: Sequence[Run], sweeps: Sequence[Sweep], sections: Sequence[Section]) -> str:
    """Make the page's HTML; the same runs give the same page."""
    names = [run.label for run in runs] + [sweep.folder.resolve().name for sweep in sweeps]
    source = files("sim.report").joinpath("template.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return page.from_string(source).render(
        title=", ".join(names),
        natures=[*map(words.nature, runs), *map(words.sweep_nature, sweeps)],
        sections=sections,
        drawn=_drawn,
        swatch=_swatch,
    )


def _drawn(chart: Chart, place: str) -> Markup:
    return Markup(on_page(chart, place))  # noqa: S704  matplotlib escapes names


def _swatch(key: Key) -> Markup:
    return Markup(swatch(key))  # noqa: S704  has no text
