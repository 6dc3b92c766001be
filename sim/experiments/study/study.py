"""A study file: which arms are compared on which tasks, with which seeds, over which links.

A study file names base scenarios and lays settings over them, as `--set` does. Every arm of a task is one
scenario; see `sim.experiments.study.points`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from scenarios.errors import suggestion
from scenarios.loading import document
from scenarios.loading.load import refuse, typed
from scenarios.loading.shipped import locate
from scenarios.loading.yaml_tree import Node
from scenarios.schema.base import NotNegativeInt, Part, PositiveInt, Problem

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,32}$")]
Settings = dict[str, Any]
LAID = "values by key path, such as training.rounds: 300, laid over the base"


class StudyTask(Part):
    """A task of the study."""

    name: Name = Field(description="as the tables call it")
    base: str = Field(description="a shipped scenario's name, or a path relative to the study's file")
    set: Settings = Field(default={}, description=LAID)
    seeds: Annotated[tuple[NotNegativeInt, ...], Field(min_length=1, description="the most important first")]
    target: float = Field(description="metric at which time and bytes to target are taken")
    tier: PositiveInt = Field(default=1, description="everything of tier 1 runs before anything of tier 2")


class Arm(Part):
    """What is compared: one setting of codecs, or one method."""

    name: Name = Field(description="as the tables call it; once for each task")
    family: str = Field(description="arms of one family have one marker in the plots")
    role: Literal["compared", "uncompressed", "fedavg"] = Field(
        default="compared",
        description="uncompressed: differences and ratios are taken against it; fedavg: bytes to target, too",
    )
    tasks: tuple[str, ...] = Field(default=(), description="tasks that it is for; all if not given")
    seeds: PositiveInt | None = Field(
        default=None, description="how many of a task's seeds; all if not given"
    )
    set: Settings = Field(default={}, description=LAID)

    def is_for(self, task: StudyTask) -> bool:
        """Say whether a task has this arm."""
        return not self.tasks or task.name in self.tasks


class StudyLink(Part):
    """A link over which the time to the target is wanted."""

    name: Name = Field(description="as the tables call it")
    set: Settings = Field(description=LAID)


class Study(Part):
    """A study, completely."""

    name: Name = Field(description="also its folder's")
    tasks: Annotated[tuple[StudyTask, ...], Field(min_length=1, description="in the order of the tables")]
    arms: Annotated[tuple[Arm, ...], Field(min_length=1, description="the most important first")]
    links: Annotated[
        tuple[StudyLink, ...],
        Field(
            min_length=1,
            description=(
                "training runs over the first; over the others time is modelled only, unless a link can "
                "change what is learned: a policy other than wait_all, clients that go away, codecs by link"
            ),
        ),
    ]


def read_study(name_or_path: str) -> tuple[Study, Node]:
    """Read a study.

    Args:
        name_or_path: a shipped study's name, or the path of a YAML file.

    Returns:
        The study, and its tree, which knows the line of each setting.

    Raises:
        ScenarioError: everything that is wrong with it, one line per problem.
    """
    root = document.read(locate(name_or_path, Path(), "study"))
    study = typed(root, Study)
    refuse(root, list(_problems(study)))
    return study, root


def _problems(study: Study) -> Iterator[Problem]:
    yield from _twins("tasks", [task.name for task in study.tasks])
    yield from _twins("links", [link.name for link in study.links])
    yield from _unfit_arms(study)
    settings = {
        "tasks": [task.set for task in study.tasks],
        "arms": [arm.set for arm in study.arms],
        "links": [link.set for link in study.links],
    }
    for kind, of_each in settings.items():
        for number, key_path in ((number, key) for number, each in enumerate(of_each) for key in each):
            if not document.is_key_path(key_path):
                yield (kind, number, "set", key_path), "must be a key path like training.cohort"


def _twins(kind: str, names: Sequence[str]) -> Iterator[Problem]:
    for number, name in enumerate(names):
        if name in names[:number]:
            yield (kind, number, "name"), f"'{name}' is there twice"


def _unfit_arms(study: Study) -> Iterator[Problem]:
    """Say which arms are for unknown tasks, or have a name or special role that their task has given away."""
    known = [task.name for task in study.tasks]
    seen: set[tuple[str, str]] = set()
    for number, arm in enumerate(study.arms):
        for place, name in enumerate(arm.tasks):
            if name not in known:
                near = suggestion(name, known, label="in tasks")
                yield ("arms", number, "tasks", place), f"unknown task '{name}'{near}"
        marks = [f"name: {arm.name}"] + ([f"role: {arm.role}"] if arm.role != "compared" else [])
        mine = [(task.name, mark) for task in study.tasks if arm.is_for(task) for mark in marks]
        for task, mark in filter(seen.__contains__, mine):
            yield ("arms", number, mark.partition(":")[0]), f"{task} has another arm with {mark}"
        seen.update(mine)
