"""The tables of a study, as Markdown."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

from broker.cli.wording import format_bytes, format_ratio
from scenarios.schema.scenario import Scenario
from sim.experiments.study.results import Group, Result, by_arm, evaluated_as_often
from sim.experiments.study.study import Study
from sim.experiments.study.times import HEAD, TIMES, rows_of_times
from sim.statistics.estimates import difference, estimate


def markdown(study: Study, results: Sequence[Result], planned: int) -> str:
    """Write all tables; a table has a part for each task.

    Args:
        study: what was asked.
        results: of the runs that have finished.
        planned: so many there will be.
    """
    parts = [f"# {study.name}", ABOUT]
    if len(results) < planned:
        parts.append(f"**Not over: {len(results)} of {planned} trained runs have finished.**")
    tables: dict[str, Callable[[list[Group]], str]] = {
        COMPRESSION: _compression,
        CORRECTION: _correction,
        BYTES: _bytes,
        LINKS: lambda groups: _over_links(groups, [link.name for link in study.links]),
        TARGET: lambda groups: _target(groups, [link.name for link in study.links]),
        TIMES: lambda groups: _table(HEAD, rows_of_times(groups, [link.name for link in study.links])),
    }
    for title, table in tables.items():
        texts = []
        for task in study.tasks:
            text = table(by_arm([each for each in results if each.run.task.name == task.name]))
            if text:
                texts += [f"### {task.name}", text]
        if texts:
            parts += [title, *texts]
    return "\n\n".join(parts) + "\n"


ABOUT = """Written by `fedlite reproduce` from finished runs. Figures are means over seeds ± their standard
deviation; differences and ratios are taken between runs of the same seed. Whether a difference says anything
stands in the column *verdict*: better or worse only if, of at least three seeds, the 95 % t-interval of the
differences, widened so that it holds for all arms of the table at once, is on one side of 0."""

COMPRESSION = """## Accuracy against compression

*Paper*: ratio of the activations as the paper counts it, 64-bit floats and neither envelope nor labels
(of codecs that it does not know, the bits of the payload). *Wire*: all bytes of the activations' MQTT
packets, the uncompressed arm's over these. *Difference*: to the uncompressed arm. *Error*:
||z - z~||² / ||z||² in the last ten rounds."""

CORRECTION = """## Gradient correction

The same codec with and without correction; for its forms see
[training](scenarios.md#training). *Difference*: to none."""

BYTES = """## Bytes

Of a whole run, whole MQTT packets. *Fewer*: the uncompressed arm's bytes over these, at equal rounds.
*Than FedAvg*: its bytes up to the target over these up to the target."""

LINKS = """## The metric over each link

Of arms that were trained over each link, because a link can change what they learn: cohorts that do not wait
for all, clients that go away, or codecs by link."""

TARGET = """## Bytes and virtual time to the target

Of the runs that reached it; arms that are evaluated less often than the uncompressed one are left out. The
time is that of the study's links and devices. ≤: sizes depend on what is encoded, and were taken at their
largest."""


def _compression(groups: list[Group]) -> str:
    reference = _by_role(groups, "uncompressed")
    rows = [
        [
            group[0].run.arm.name,
            _mean(_values(group, "ratio_paper"), format_ratio),
            _mean(_values(group, "ratio_wire"), format_ratio),
            _spread(_values(group, "final")),
            *_difference(group, reference, len(groups)),
            _mean(_values(group, "quantization_error"), "{:.3f}"),
            str(len(group)),
        ]
        for group in groups
    ]
    metric = groups[0][0].row["metric"] if groups else ""
    return _table(["arm", "paper", "wire", metric, "difference", "verdict", "error", "seeds"], rows)


def _correction(groups: list[Group]) -> str:
    families: dict[str, list[Group]] = {}
    for group in groups:
        families.setdefault(_without_correction(group[0].run.grid_run.point.scenario), []).append(group)
    rows = []
    for family in families.values():
        by_strength = {group[0].row["correction"]: group for group in family}
        without = by_strength.get("0", [])
        if len(by_strength) < 2:  # noqa: PLR2004  nothing to compare
            continue
        for strength, group in by_strength.items():
            rows.append(
                [
                    group[0].run.arm.name,
                    strength,
                    _spread(_values(group, "final")),
                    *_difference(group, without, len(by_strength)),
                    _mean(_values(group, "quantization_error"), "{:.3f}"),
                    str(len(group)),
                ]
            )
    metric = groups[0][0].row["metric"] if groups else ""
    return _table(["arm", "correction", metric, "difference", "verdict", "error", "seeds"], rows)


def _without_correction(scenario: Scenario) -> str:
    return scenario.model_dump_json(exclude={"seed": True, "training": {"correction": True}})


def _bytes(groups: list[Group]) -> str:
    split, fedavg = _by_role(groups, "uncompressed"), _by_role(groups, "fedavg")
    often = evaluated_as_often(list(chain.from_iterable(groups)))
    head = ["arm", "activations up", "head up", "gradient down", "head down", "both ways"]
    columns = ("activations_up", "head_update_up", "gradient_down", "head_state_down", "total")
    head += ["on the links", "fewer up", "fewer both ways", "fewer on the links"]
    head += ["up, than FedAvg", "both ways, than FedAvg"]
    rows = []
    for group in groups:
        as_long = [each for each in split if each.row["rounds"] == group[0].row["rounds"]]
        timed = [each for each in group if each in often]
        rows.append(
            [
                group[0].run.arm.name,
                *(_mean(_values(group, name), format_bytes) for name in (*columns, "links")),
                _fewer(group, as_long, "up"),
                _fewer(group, as_long, "total"),
                _fewer(group, as_long, "links"),
                _fewer(timed, fedavg, "target_up"),
                _fewer(timed, fedavg, "target_total"),
            ]
        )
    return _table(head, rows)


def _target(groups: list[Group], links: Sequence[str]) -> str:
    rows = []
    for group in by_arm(evaluated_as_often(list(chain.from_iterable(groups)))):
        reached = [each for each in group if each.row["target_rounds"] is not None]
        rows.append(
            [
                group[0].run.arm.name,
                f"{len(reached)} of {len(group)}",
                _mean(_values(reached, "target_rounds"), "{:.0f}"),
                *(_mean(_values(reached, name), format_bytes) for name in ("target_up", "target_total")),
                *(_time(reached, link) for link in links),
            ]
        )
    if not rows:
        return ""
    target = groups[0][0].row["target"]
    return f"Target {target:g}.\n\n" + _table(
        ["arm", "reached", "rounds", "up", "both ways", *(f"time, {link}" for link in links)], rows
    )


def _over_links(groups: list[Group], links: Sequence[str]) -> str:
    others = links[1:]
    rows = [
        [group[0].run.arm.name, _spread(_values(group, "final"))]
        + [_spread(_values(group, f"final.{link}")) for link in others]
        for group in groups
        if any(_values(group, f"final.{link}") for link in others)
    ]
    return _table(["arm", *links], rows)


def _time(group: Group, link: str) -> str:
    bound = "≤ " if any(each.row.get(f"bound.{link}") for each in group) else ""
    return _mean(_values(group, f"target_s.{link}"), bound + "{:,.0f} s")


def _by_role(groups: list[Group], role: str) -> Group:
    return next((group for group in groups if group[0].run.arm.role == role), [])


def _values(group: Iterable[Result], column: str) -> list[float]:
    return [each.row[column] for each in group if each.row.get(column) is not None]


def _pairs(group: Group, other: Group, column: str) -> list[tuple[float, float]]:
    """Give a column's values in runs of the same seed, as far as both have one."""
    values = {each.run.seed: each.row for each in other}
    return [
        (each.row[column], values[each.run.seed][column])
        for each in group
        if each.run.seed in values
        and each.row[column] is not None
        and values[each.run.seed][column] is not None
    ]


def _difference(group: Group, reference: Group, groups: int) -> tuple[str, str]:
    """Write the difference to a reference that is one of so many groups, and what it says."""
    if group is reference:
        return "", ""
    mine, its = ({each.run.seed: each.row["final"] for each in one if each.row["final"] is not None}
                 for one in (group, reference))  # fmt: skip
    higher = all(each.higher_is_better for each in group)
    apart = difference(mine, its, higher_is_better=higher, at_once=max(1, groups - 1))
    if apart is None:
        return "", ""
    return _spread([mine[seed] - its[seed] for seed in mine if seed in its], "{:+.4f}"), apart.in_words


def _fewer(group: Group, reference: Group, column: str) -> str:
    return _mean([its / mine for mine, its in _pairs(group, reference, column)], _two_digits)


def _two_digits(ratio: float) -> str:
    return format_ratio(ratio, 2)


def _mean(values: Sequence[float], form: str | Callable[[float], str]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    return form.format(mean) if isinstance(form, str) else form(mean)


def _spread(values: Sequence[float], form: str = "{:.4f}") -> str:
    """Write mean ± sample standard deviation."""
    of = estimate(values)
    if of is None:
        return ""
    return form.format(of.mean) + ("" if of.deviation is None else f" ± {of.deviation:.4f}")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---", *("--:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
