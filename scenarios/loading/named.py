"""Gives a scenario for what a person names: a task, a shipped scenario, or a file."""

from collections.abc import Sequence

from scenarios.errors import ScenarioError, suggestion
from scenarios.loading.load import load_scenario, plain_scenario
from scenarios.loading.shipped import shipped
from scenarios.schema.scenario import Scenario
from scenarios.tasks import TASKS


def scenario_of(what: str, clients: int | None, settings: Sequence[str]) -> Scenario:
    """Load a scenario, or make the plainest one of a task.

    Args:
        what: name of a task or of a shipped scenario, or the path of a file.
        clients: how many; None: 3 of a task, of a scenario those of its fleet.
        settings: such as "training.cohort=5".

    Raises:
        ScenarioError: there is no such thing, or something is wrong with it.
    """
    if what in TASKS:
        return plain_scenario(what, clients or 3, settings)
    if what in shipped() or what.endswith((".yaml", ".yml")):
        fewer = [] if clients is None else [f"fleet=[{{count: {clients}}}]", "training.cohort=1"]
        return load_scenario(what, [*fewer, *settings])
    known = suggestion(what, [*TASKS, *shipped()], label="known")
    raise ScenarioError(f"no task or scenario '{what}'{known}; or give the path of a .yaml file")
