"""Makes trials, which are compared, of sweeps and of runs given one by one."""

import json
from collections.abc import Sequence

from server_node.summary import total_link_bytes
from sim.report.runs import Row, Run, Sweep
from sim.statistics.setting_words import keys_in_words
from sim.statistics.trials import METRIC, SEED, Trial, higher_is_better, trial_of

RUN = "run"
"""Key of settings that are runs."""

_FEW = 3
"""Settings in which runs differ that may stand as the runs' name."""


def trials_of_sweep(sweep: Sweep) -> list[Trial]:
    """Make a trial of each point; those that are not over come last."""
    ended = [trial_of(row, sweep.keys, sweep.rounds.get(row["run"], ())) for row in sweep.rows]
    known = next((trial.metric_name for trial in ended if trial.metric is not None), METRIC)
    begun = [
        Trial(
            keys={key: value for key, value in point.keys.items() if key != SEED},
            seed=point.seed,
            run=point.run,
            clock="virtual",
            metric_name=known if point.metric["name"] == METRIC else point.metric["name"],
            higher_is_better=higher_is_better(point.metric.get("better")),
            why=f"unfinished: {len(point.rounds)} rounds so far",
            rounds=point.rounds,
        )
        for point in sweep.unfinished
    ]
    return [*ended, *begun]


def trials_of_runs(runs: Sequence[Run]) -> list[Trial]:
    """Make a trial of each run; runs of one scenario with different seeds are one setting."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_identity(run), []).append(run)
    differing = differing_keys([run.scenario for run in runs])
    trials = []
    for group in groups.values():
        seeds = [run.seed for run in group]
        apart = len(set(seeds)) < len(seeds)  # twice the same seed: nobody knows in what they differ
        name = group[0].label
        if len(group) > 1 and 0 < len(differing) <= _FEW:
            name = keys_in_words({key: group[0].scenario.get(key) for key in differing})
        trials += [_trial(run, run.label if apart else name) for run in group]
    order = {run.label: number for number, run in enumerate(runs)}
    return sorted(trials, key=lambda trial: order[trial.run])


def differing_keys(scenarios: Sequence[Row]) -> list[str]:
    """Give the key paths in which scenarios differ, without name and seed."""
    keys = dict.fromkeys(key for scenario in scenarios for key in scenario if key not in ("name", SEED))
    return [key for key in keys if len({repr(scenario.get(key)) for scenario in scenarios}) > 1]


def _identity(run: Run) -> str:
    alike = {key: value for key, value in run.scenario.items() if key not in ("name", SEED)}
    return json.dumps([run.clock, sorted(alike.items())], default=str)


def _trial(run: Run, name: str) -> Trial:
    over = run.unfinished is None
    return Trial(
        keys={RUN: name},
        seed=run.seed,
        run=run.label,
        clock=run.clock,
        metric_name=run.summary["metric"]["name"],
        higher_is_better=run.higher_is_better,
        metric=run.summary["metric"]["final"] if over else None,
        seconds=run.rows[-1]["elapsed_s"] if over else None,
        bytes=run.total_bytes if over else None,
        link_bytes=total_link_bytes(run.summary) if over else None,
        why=run.unfinished or "",
        rounds=run.rows,
    )
