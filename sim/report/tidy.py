"""Tidy CSV files, for plots of one's own: curves.csv has every round, summary.csv every setting."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from broker.files import atomic_write
from sim.statistics.comparison import Comparison, lines_of
from sim.statistics.curves import cost_of, costs_to_target, metric_at_cost
from sim.statistics.estimates import Estimate
from sim.statistics.setting_words import in_words
from sim.statistics.trials import BYTES, METRIC, SECONDS, keys_of

Cell = object


def write_tables(
    comparison: Comparison, folder: Path, target: float | None, at_s: float | None
) -> list[Path]:
    """Write curves.csv and summary.csv.

    Args:
        comparison: of the settings.
        folder: where to.
        target: of the metric, for what it costs; None if there is none.
        at_s: the equal time, for the metric then; None if there is none.
    """
    keys = keys_of(comparison.settings)
    curves: list[list[Cell]] = []
    for trial in comparison.trials:
        values = [*_values(trial.keys, keys), trial.seed]
        for row in trial.rounds:
            costs = (cost_of(row, SECONDS), int(cost_of(row, BYTES)))
            curves.append([*values, row["round"], *costs, row["metric"]])
    files = [folder / "curves.csv", folder / "summary.csv"]
    _write(files[0], [*keys, "seed", "round", "seconds", "bytes", "metric"], curves)
    rows = _summary(comparison, target, at_s)
    _write(files[1], list(rows[0]), [list(row.values()) for row in rows])
    return files


def _summary(comparison: Comparison, target: float | None, at_s: float | None) -> list[dict[str, Cell]]:
    keys = keys_of(comparison.settings)
    rows = []
    for line in lines_of(comparison):
        setting, apart = line.setting, line.difference
        row: dict[str, Cell] = dict(zip(keys, _values(setting.keys, keys), strict=True))
        row |= {"metric_name": setting.trials[0].metric_name, "seeds": len(setting.whole)}
        row["not_counted"] = len(setting.trials) - len(setting.whole)
        for what in (METRIC, SECONDS, BYTES):
            row |= _columns(what, setting.estimate(what))
        row["compared_by"] = comparison.what
        row["reference"] = "" if line.reference is None else _name(line.reference.keys)
        row |= _columns("difference", None if apart is None else apart.of)
        row["verdict"] = "" if apart is None else apart.in_words
        reached: int | str = ""
        for what in (SECONDS, BYTES):
            of, reached = (None, "") if target is None else costs_to_target(setting, what, target)
            row |= _columns(f"{what}_to_target", of)
        row |= {"target": target, "reached_target": reached, "equal_seconds": at_s}
        row |= _columns(
            "metric_at_equal_seconds", None if at_s is None else metric_at_cost(setting, SECONDS, at_s)
        )
        rows.append(row)
    return rows


def _columns(name: str, of: Estimate | None) -> dict[str, Cell]:
    if of is None:
        return dict.fromkeys((name, f"{name}_sd", f"{name}_low", f"{name}_high"))
    return {name: of.mean, f"{name}_sd": of.deviation, f"{name}_low": of.low, f"{name}_high": of.high}


def _values(of: Mapping[str, object], keys: Sequence[str]) -> list[Cell]:
    values = [of.get(key) for key in keys]
    return [value if isinstance(value, int | float) else in_words(value) for value in values]


def _name(keys: Mapping[str, object]) -> str:
    return "; ".join(in_words(value) for value in keys.values())


def _write(file: Path, head: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    with atomic_write(file) as part, part.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([head, *rows])
