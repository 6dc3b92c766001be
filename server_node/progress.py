"""Where a run stands before its server begins: nothing done yet, under way, or over."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from broker.errors import CannotGoOnError, RunError
from broker.exits import COMPLETE, ENDED
from scenarios.heads.masters import load_masters
from scenarios.schema.base import without_defaults
from scenarios.schema.scenario import Scenario
from server_node import checkpoint
from server_node.checkpoint import Progress
from server_node.learning.aggregation import LabelFilter
from server_node.ownership import refuse_other_kinds
from server_node.summary import Summary
from server_node.vocabulary.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        rows: of the rounds that are done.
        ledger: of those.
        tensors: head, tail and what their optimizers remember after them; None: the initial ones.
        filter: see server_node.checkpoint.Progress.
        damaged: a checkpoint that was newer, and what was wrong with it.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    tensors: dict[str, Tensor] | None = None
    filter: LabelFilter = field(default_factory=LabelFilter)
    damaged: tuple[str, ...] = ()


def standing_of(scenario: Scenario, folder: Path) -> Standing:
    """Look how far the run of a folder has come.

    Raises:
        CannotGoOnError: the folder has the results of another scenario, a sweep or a study, results without a
            checkpoint, or only damaged checkpoints.
    """
    refuse_other_kinds(folder, "run")
    found = checkpoint.newest(folder, Progress)
    if found is None:
        refuse_results(summary_of(folder), folder)
        return Standing()
    progress, tensors, damaged = found
    refuse_others(progress.settings, settings_of(scenario), folder)
    return Standing(progress.rows, progress.ledger, tensors, progress.filter, tuple(damaged))


def over(scenario: Scenario, folder: Path) -> tuple[Summary, str] | None:
    """Say whether the run of a folder is over.

    Returns:
        Its summary and a line for people; None when there is something left to do.

    Raises:
        CannotGoOnError: see standing_of.
    """
    summary = summary_of(folder)
    rows = standing_of(scenario, folder).rows
    if summary is None or len(rows) != summary["rounds"]:
        return None
    rounds, doubled = len(rows), 2 * max(scenario.training.rounds, len(rows))
    if summary["reason"] == COMPLETE and rounds >= scenario.training.rounds:
        more = f"--set training.rounds={doubled} adds rounds, --fresh begins anew"
        return summary, f"already complete: {rounds} rounds; {more}"
    if summary["reason"] == ENDED:
        return summary, f"was stopped for good after {rounds} rounds; --fresh begins anew"
    return None


def settings_of(scenario: Scenario) -> dict[str, Any]:
    """Give what must stay as it is while a run goes on.

    Its name, the number of its rounds, the broker, the modelled network, the server's GPU and the places of
    files may change.
    """
    settings = without_defaults(scenario)
    for key in ("name", "broker", "network", "server", "simulation"):
        settings.pop(key, None)
    for part, key in (("task", "path"), ("task", "data"), ("task", "module"), ("training", "rounds")):
        settings[part].pop(key, None)
    return settings


def refuse_results(summary: Summary | None, folder: Path) -> None:
    """Refuse to begin a run over the results of another one.

    Args:
        summary: of the folder, if it has one; one without a round is no result.
        folder: the run folder, which has no checkpoint.

    Raises:
        CannotGoOnError: there are results.
    """
    if summary is not None and summary["rounds"]:
        how = "simulated" if summary["mode"] == "simulate" else "live"
        raise CannotGoOnError(
            f"{folder} has the results of a {how} run and no checkpoint to go on from; "
            "--fresh begins anew over them, --out names another folder"
        )


def refuse_others(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Refuse to go on with a run under other settings than those with which it began.

    Raises:
        CannotGoOnError: they differ; it names each key.
    """
    others = list(_differences(before, now))
    if others:
        which = "\n".join(f"  {line}" for line in others)
        raise CannotGoOnError(
            f"{folder} has the run of another scenario:\n{which}\n"
            "--fresh begins anew over it, --out names another folder"
        )


def _differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    """Name the keys in which two trees of settings differ, and both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted(before.keys() | now.keys()):
            yield from _differences(before.get(key), now.get(key), f"{at}.{key}" if at else key)
    elif before != now:
        words = ["its default" if value is None else json.dumps(value) for value in (before, now)]
        yield f"{at} was {words[0]} and is {words[1]} now"


def summary_of(folder: Path) -> Summary | None:
    """Read what the run of a folder came to; None if there is no summary that can be read."""
    try:
        return cast("Summary", json.loads((folder / "summary.json").read_text()))
    except (OSError, ValueError):
        return None


def load_model(folder: Path, standing: Standing, head: nn.Module, tail: nn.Module) -> None:
    """Load a checkpoint into both parts, if there is one; RunError if it is that of another model."""
    for what in standing.damaged:
        log.warning("%s; going on from the one before", what)
    tensors = standing.tensors
    if tensors is None:
        return
    for part, module in (("head", head), ("tail", tail)):
        mine = f"{part}."
        own = {name.removeprefix(mine): value for name, value in tensors.items() if name.startswith(mine)}
        try:
            module.load_state_dict(own)
            load_masters(module, own)
        except RuntimeError as error:
            raise RunError(
                f"the checkpoint in {folder} has another {part} than the task: {error}; --fresh begins anew"
            ) from error
