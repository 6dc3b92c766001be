"""Which ways of sending the head down go with what else a scenario says."""

from collections.abc import Iterator

from scenarios.schema.base import Problem
from scenarios.schema.scenario import Scenario, early_cuts


def head_problems(scenario: Scenario) -> Iterator[Problem]:
    """Give the key of each mistake, and what is wrong."""
    yield from _own_rows(scenario)
    yield from _head_since(scenario)
    yield from _whole_heads(scenario)


def _whole_heads(scenario: Scenario) -> Iterator[Problem]:
    for key in ("adaptive", "own_rows"):
        if getattr(scenario.flows, key) and early_cuts(scenario):
            yield ("flows", key), "goes with whole heads: leave cut out of the fleet"


def _head_since(scenario: Scenario) -> Iterator[Problem]:
    flows = scenario.flows
    if flows.head_since == "start":
        return
    last = "head_since last does not go with"
    if flows.own_rows:
        yield ("flows", "own_rows"), f"{last} own_rows, which sends different rows to each device"
    if flows.head_state_down.codec == "float32":
        yield ("flows", "head_state_down"), f"{last} float32, which loses nothing"
    if early_cuts(scenario):
        yield ("flows", "head_since"), "last goes with whole heads: leave cut out of the fleet"


def _own_rows(scenario: Scenario) -> Iterator[Problem]:
    flows, optimizer = scenario.flows, scenario.training.head_optimizer
    if not flows.own_rows:
        return
    if flows.head_state_down.codec != "touched_rows":
        yield (
            ("flows", "own_rows"),
            "needs head_state_down in touched_rows, which sends rows; with another codec it must be false",
        )
    if getattr(optimizer, "weight_decay", 0):
        yield (
            ("flows", "own_rows"),
            "does not go with weight_decay in head_optimizer, which moves rows that a device has not got",
        )
