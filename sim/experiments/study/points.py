"""The runs of a study, in the order of their importance."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from scenarios.errors import ScenarioError
from scenarios.loading import document
from scenarios.loading.grid import GridPoint
from scenarios.loading.load import check, read_tree
from scenarios.loading.shipped import locate
from scenarios.loading.yaml_tree import Node
from scenarios.schema.flows import Codecs
from scenarios.schema.network import Network
from scenarios.schema.scenario import Scenario
from sim.experiments.grid_runs import GridRun
from sim.experiments.results import Mode
from sim.experiments.study.study import Arm, Study, StudyLink, StudyTask, read_study


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One run: an arm of a task with a seed over a link.

    Attributes:
        task: of the study.
        arm: of the study.
        link: of the study.
        seed: one of the task's.
        grid_run: the scenario, and whether to train.
        first: whether the link is the study's first, whose trained runs the tables are about.
    """

    task: StudyTask
    arm: Arm
    link: StudyLink
    seed: int
    grid_run: GridRun
    first: bool = True

    @property
    def setting(self) -> str:
        """What it is called without its seed."""
        return f"{self.task.name} {self.arm.name}{self._over}"

    @property
    def title(self) -> str:
        """What it is called."""
        return f"{self.task.name} {self.arm.name} seed {self.seed}{self._over}"

    @property
    def _over(self) -> str:
        return "" if self.first else f" over {self.link.name}"

    @property
    def trained(self) -> bool:
        """Whether something is learned."""
        return self.grid_run.mode is Mode.SIMULATE


def load_runs(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[Study, list[StudyRun]]:
    """Load all runs of a study, the most important first.

    That is by tier, then arms with more seeds, then seed, then arm, then task.

    Args:
        name_or_path: a shipped study's name, or the path of a YAML file.
        overrides: such as "training.rounds=3", laid over every scenario.

    Raises:
        ScenarioError: everything that is wrong with the study or any scenario of it, one line per problem.
    """
    study, tree = read_study(name_or_path)
    ranked: list[tuple[tuple[int, ...], StudyRun]] = []
    mistakes: list[str] = []
    for t, task in enumerate(study.tasks):
        root, _ = read_tree(locate(task.base, tree.origin_of(("tasks", t, "base")).folder))
        root = _lay(root, tree, "tasks", t)
        for a, arm in enumerate(study.arms):
            if not arm.is_for(task):
                continue
            try:
                over_links = _over_links(_lay(root, tree, "arms", a), study, tree, overrides)
            except ScenarioError as error:
                mistakes += str(error).splitlines()
                continue
            seeds = task.seeds[: arm.seeds]
            for s, seed in enumerate(seeds):
                first = over_links[0][1]
                for number, (link, scenario) in enumerate(over_links):
                    run = _run(
                        task,
                        arm,
                        link,
                        scenario.model_copy(update={"seed": seed}),
                        trained=not number or link_decides_what(first, scenario),
                        first=not number,
                    )
                    ranked.append(((task.tier, -len(seeds), s, a, t, number), run))
    if mistakes:
        raise ScenarioError("\n".join(dict.fromkeys(mistakes)))
    return study, [run for _, run in sorted(ranked, key=lambda each: each[0])]


def _lay(root: Node, tree: Node, kind: str, number: int) -> Node:
    """Lay the settings of a task, arm or link over a scenario's tree."""
    settings = tree.value[kind].value[number].value.get("set")
    for key_path, node in settings.value.items() if settings else ():
        root = document.put(root, key_path, node)
    return root


def _over_links(
    root: Node, study: Study, tree: Node, overrides: Sequence[str]
) -> list[tuple[StudyLink, Scenario]]:
    """Make the scenario of an arm over each link."""
    for assignment in overrides:
        root = document.override(root, assignment)
    return [(link, check(_lay(root, tree, "links", number))) for number, link in enumerate(study.links)]


def link_decides_what(first: Scenario, other: Scenario) -> bool:
    """Say whether a run over another link may learn anything else than over the first, and not only later.

    It learns the same only if every round waits for all its members, all of them are always there, and
    each has the same codecs over both links: then a link decides when a round ends, and nothing else. And
    nothing but links may differ between the two scenarios.
    """
    waits = first.stragglers.policy == "wait_all"
    there = all(group.availability.pattern == "always" for group in (*first.fleet, *other.fleet))
    alike = _without_links(first) == _without_links(other)
    same_codecs = first.flows.adaptive is None and _codecs_of_groups(first) == _codecs_of_groups(other)
    return not (waits and there and alike and same_codecs)


def _codecs_of_groups(scenario: Scenario) -> list[Codecs]:
    return [scenario.flows.codecs_for(group.link, group.cut) for group in scenario.fleet]


def _without_links(scenario: Scenario) -> Scenario:
    fleet = tuple(group.model_copy(update={"link": "none", "via": None}) for group in scenario.fleet)
    return scenario.model_copy(update={"fleet": fleet, "network": Network()})


def _run(
    task: StudyTask, arm: Arm, link: StudyLink, scenario: Scenario, *, trained: bool, first: bool
) -> StudyRun:
    # The folder's name comes from the scenario alone: arms that are the same scenario share a run.
    values = {
        "task": scenario.task.name,
        "up": _uplink_of(scenario),
        "link": scenario.fleet[0].link_name,
        "seed": scenario.seed,
    }
    mode = Mode.SIMULATE if trained else Mode.TIMING_ONLY
    return StudyRun(task, arm, link, scenario.seed, GridRun(GridPoint(values, scenario), mode), first)


def _uplink_of(scenario: Scenario) -> object:
    """Say for a folder's name how activations go up."""
    if scenario.training.method == "fedavg":
        return "fedavg"
    return "adaptive" if scenario.flows.adaptive else asdict(scenario.flows.activations_up)
