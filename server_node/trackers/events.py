"""What trackers and a user's observers hear: plain dicts that json.dumps takes, in the order of the run.

event     keys besides it
begin     run, mode, seconds, metric, rounds, rounds_done, settings, folder
round     the columns of metrics.parquet, and rejected
dropped   round, client: the round goes on without a member of its cohort
refused   client, why: a message of a client was refused
noticed   client, what
end       reason, summary

Keys may be added; none is renamed, moved or taken away.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from scenarios.loading.load import dump_resolved
from scenarios.schema.scenario import Scenario
from server_node.summary import Summary
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Dropped, Fact, Noticed, Refused

Event = Mapping[str, Any]
Tell = Callable[[Event], None]
"""Takes an event and returns at once: what is done with it happens in another thread."""
Sink = Callable[[Sequence[Event]], None]
"""Does something with events, in their order; may take its time, and may fail."""

FAILED = "failed"
"""The reason of an `end` whose run ended with an error, and so has no summary."""


def silence(event: Event) -> None:
    """Tell nobody."""


def began(
    scenario: Scenario, *, run: str, mode: str, metric: str, rounds_done: int, folder: Path
) -> dict[str, Any]:
    """Make the event of a run that begins, or goes on after `rounds_done` rounds.

    `settings` is the scenario as in scenario.yaml, without passwords; `seconds` says of which kind
    `elapsed_s` is.
    """
    return {
        "event": "begin",
        "run": run,
        "mode": mode,
        "seconds": "virtual" if mode == "simulate" else "wall",
        "metric": metric,
        "rounds": scenario.training.rounds,
        "rounds_done": rounds_done,
        "settings": yaml.safe_load(dump_resolved(scenario)),
        "folder": str(folder),
    }


def round_ended(row: Mapping[str, Any], ledger: Ledger) -> dict[str, Any]:
    """Make the event of a round from its row of metrics.parquet; None stands for what is no number."""
    plain = {
        key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()
    }
    return {"event": "round", **plain, "rejected": sum(ledger.rejected.values())}


def happened(fact: Fact) -> dict[str, Any] | None:
    """Make the event of a fact that is no round; None for facts that nobody tracks."""
    match fact:
        case Dropped(number, client):
            return {"event": "dropped", "round": number, "client": client}
        case Refused(client, why):
            return {"event": "refused", "client": client, "why": why}
        case Noticed(client, what):
            return {"event": "noticed", "client": client, "what": what}
        case _:
            return None


def ended(reason: str, summary: Summary | None = None) -> dict[str, Any]:
    """Make the event of a run that is over, or pauses; `summary` is the content of summary.json."""
    return {"event": "end", "reason": reason, "summary": summary}
