"""The study of other people's codecs: every arm is a scenario whose codecs fit, and each method has one."""

from pathlib import Path

from broker.codecs import C3, CodedPq, Float32, Nsc, RandomTopK, SlFac, SplitFc
from sim.experiments.study.points import load_runs

STUDY = Path(__file__).parents[2] / "benchmarks/rivals.yaml"


def test_each_method_is_trained_on_both_tasks_in_both_directions() -> None:
    _, runs = load_runs(str(STUDY))
    flows = {(run.task.name, run.arm.name): run.grid_run.point.scenario.flows for run in runs}
    for task in ("watch_exercises", "fashion_mnist"):
        of_task = [each for (name, _), each in flows.items() if name == task]
        kinds = {type(each.activations_up) for each in of_task}
        assert kinds == {Float32, CodedPq, Nsc, SlFac, SplitFc, RandomTopK, C3}
        assert all(
            type(each.gradient_down) is type(each.activations_up)
            for each in of_task
            if not isinstance(each.activations_up, CodedPq)
        )
