"""What a study has come to, read from its finished run folders: one row for each trained run.

Columns of results.csv. Bytes are whole MQTT packets. `up` and `down` are without control messages, `total` is
with them. A column is empty when the target was not reached, or when the run has not been done yet.

task, arm, family, role, seed, run    which run, and its folder
metric, final, best                   the task's metric after the last round, and the best
quantization_error                    mean of ||z - z~||^2 / ||z||^2, last ten rounds
correction                            strength of the gradient correction in words, 0 if there is none
ratio_paper                           activations, in the paper's accounting (server_node.vocabulary.ledger)
ratio_wire                            activations, packets of the uncompressed arm's same seed over these
rounds, FLOW, up, down, total         bytes of the whole run
links_up, links_down, links           on the devices' links, with TCP/IP (broker.wire.link_bytes), and both
target, target_rounds                 the task's target, and rounds to it
target_up, target_down, target_total  bytes to it
target_s.LINK                         virtual seconds to it; bound.LINK: these are an upper bound
end_s.LINK                            virtual seconds of the whole run
final.LINK                            the metric over that link, where a link decides what is learned
wall_seconds                          that the training took
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from broker.files import atomic_write, writing
from scenarios.schema.training import Correction
from server_node.summary import Summary, total_link_bytes, total_wire_bytes, wire_bytes_in, wire_bytes_so_far
from server_node.vocabulary.ledger import CONTROL, DOWN, FLOWS, UP
from sim.experiments.results import Row
from sim.experiments.study.points import StudyRun
from sim.statistics.trials import higher_is_better, reached

LAST_ROUNDS = 10


@dataclass(frozen=True)
class Result:
    """A run over the first link that has finished.

    Attributes:
        run: which.
        row: its row of results.csv.
        rounds: of metrics.parquet, one a round.
        higher_is_better: of its metric.
    """

    run: StudyRun
    row: Row
    rounds: list[Row]
    higher_is_better: bool = True

    @property
    def evaluations(self) -> int:
        """How often the metric was taken."""
        return sum(row["metric"] is not None for row in self.rounds)


Group = list[Result]
"""Results of one arm on one task, a seed each."""


def by_arm(results: Sequence[Result]) -> list[Group]:
    """Group the results of one task by arm: one group holds all seeds of an arm."""
    groups: dict[str, Group] = {}
    for each in results:
        groups.setdefault(each.run.arm.name, []).append(each)
    return list(groups.values())


def evaluated_as_often(results: Sequence[Result]) -> list[Result]:
    """Give those of one task that were evaluated as often as its uncompressed arm, all if there is none.

    A run that is evaluated less often sees later that it has reached a target, so times would not compare.
    """
    least = [each.evaluations for each in results if each.run.arm.role == "uncompressed"]
    return [each for each in results if each.evaluations >= min(least, default=0)]


def read_results(runs: Sequence[StudyRun], folder: Path) -> list[Result]:
    """Read the runs over the first link that have finished, in the order of the study's arms, and seeds."""
    grid_runs = {run.grid_run.name: run.grid_run for run in runs}
    summaries = {
        name: summary
        for name, grid_run in grid_runs.items()
        if (summary := grid_run.summary(folder)) is not None
    }
    baseline = {
        (run.task.name, run.seed): summaries[run.grid_run.name]
        for run in runs
        if run.first and run.arm.role == "uncompressed" and run.grid_run.name in summaries
    }
    results = []
    for run in runs:
        if run.first and (summary := summaries.get(run.grid_run.name)) is not None:
            rounds = _rounds(folder, run)
            row = _row(run, summary, rounds, baseline.get((run.task.name, run.seed)))
            results.append(Result(run, row, rounds, _higher_is_better(summary)))
    _add_times(results, runs, summaries, folder)
    return results


def write_csv(file: Path, results: Sequence[Result]) -> None:
    """Write results.csv in one step."""
    columns = list(dict.fromkeys(name for result in results for name in result.row))
    with writing(file), atomic_write(file) as part, part.open("w", newline="", encoding="utf-8") as text:
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(result.row for result in results)


def _rounds(folder: Path, run: StudyRun) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / run.grid_run.name / "metrics.parquet").to_pylist()
    return rows


def _row(run: StudyRun, summary: Summary, rounds: list[Row], baseline: Summary | None) -> Row:
    scenario, sent = run.grid_run.point.scenario, summary["bytes"]
    split = scenario.training.method != "fedavg"
    wire = {name: sent[name]["wire"] for name in (*FLOWS, CONTROL)}
    links = summary.get("links")
    errors = [row["quantization_error"] for row in rounds[-LAST_ROUNDS:]]
    return {
        "task": run.task.name,
        "arm": run.arm.name,
        "family": run.arm.family,
        "role": run.arm.role,
        "seed": run.seed,
        "run": run.grid_run.name,
        "metric": summary["metric"]["name"],
        "final": summary["metric"]["final"],
        "best": summary["metric"]["best"],
        "quantization_error": fmean(errors) if split and all(map(math.isfinite, errors)) else None,
        "correction": correction_in_words(scenario.training.correction) if split else None,
        "ratio_paper": summary["ratio"]["activations_up"]["paper_64bit"] if split else None,
        "ratio_wire": baseline["bytes"]["activations_up"]["wire"] / wire["activations_up"]
        if baseline and split
        else None,
        "rounds": summary["rounds"],
        **wire,
        "up": sum(flow["wire"] for name, flow in sent.items() if name in UP),
        "down": sum(flow["wire"] for name, flow in sent.items() if name in DOWN),
        "total": total_wire_bytes(summary),
        "links_up": links["up"] if links else None,
        "links_down": links["down"] if links else None,
        "links": total_link_bytes(summary),
        **_to_target(run, rounds, higher_better=_higher_is_better(summary)),
        "wall_seconds": round(summary["wall_seconds"], 1),
    }


def correction_in_words(correction: Correction) -> str:
    """Say how strong a gradient correction is, and "0" of one that is none."""
    if not correction.lambda_ and not correction.relative:
        return "0"
    name, strength = (
        ("relative", correction.relative) if correction.relative else ("lambda", correction.lambda_)
    )
    return f"{name} {strength:g}, {correction.schedule}"


def target_index(run: StudyRun, rounds: Sequence[Row], *, higher_better: bool = True) -> int | None:
    """Give the index of the first evaluated round whose metric has the task's target."""
    return next(
        (
            i
            for i, row in enumerate(rounds)
            if reached(row["metric"], run.task.target, higher_better=higher_better)
        ),
        None,
    )


def _higher_is_better(summary: Summary) -> bool:
    return higher_is_better(dict(summary["metric"]).get("better"))


def _to_target(run: StudyRun, rounds: list[Row], *, higher_better: bool) -> Row:
    index = target_index(run, rounds, higher_better=higher_better)
    if index is None:
        return {"target": run.task.target} | dict.fromkeys(
            ("target_rounds", "target_up", "target_down", "target_total")
        )
    row = rounds[index]
    return {
        "target": run.task.target,
        "target_rounds": row["round"],
        "target_up": wire_bytes_in(row, UP),
        "target_down": wire_bytes_in(row, DOWN),
        "target_total": wire_bytes_so_far(row),
    }


def _add_times(
    results: Sequence[Result], runs: Sequence[StudyRun], summaries: dict[str, Summary], folder: Path
) -> None:
    """Add the seconds to the target over each link, and the metric where it was trained over that link.

    Of a run that trained nothing round n is round n of the run over the first link, see link_decides_what.
    Codecs whose sizes depend on what they encode are taken at their largest there; the bytes of both tell.
    """
    of_first = {(result.run.task.name, result.run.arm.name, result.run.seed): result for result in results}
    for run in runs:
        result = of_first.get((run.task.name, run.arm.name, run.seed))
        if result is None:
            continue
        summary, name = summaries.get(run.grid_run.name), run.link.name
        result.row[f"target_s.{name}"] = result.row[f"bound.{name}"] = None
        if not run.first and run.trained:
            result.row[f"final.{name}"] = summary["metric"]["final"] if summary else None
        if summary is None:
            continue
        rounds = result.rounds if run.first else _rounds(folder, run)
        learned = rounds if run.trained else result.rounds
        result.row[f"end_s.{name}"] = rounds[-1]["elapsed_s"]
        index = target_index(run, learned, higher_better=result.higher_is_better)
        if index is not None:
            result.row[f"target_s.{name}"] = rounds[index]["elapsed_s"]
            bound = not run.trained and _wire(rounds[index]) != _wire(result.rounds[index])
            result.row[f"bound.{name}"] = bound


def _wire(row: Row) -> list[Any]:
    return [row[f"{name}_wire_bytes"] for name in FLOWS]
