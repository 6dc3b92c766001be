"""Small scenarios for tests, as a user would write them."""

from pathlib import Path

from scenarios.heads.parts import form_of
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from scenarios.task import Task
from server_node.summary import Summary
from server_node.vocabulary.plan import Plan, make_plan

SMALL = f"""
name: small
seed: 3
task: {{name: corners, module: {Path(__file__).parent / "small_task.py"}, partition: iid, batch_size: 10}}
training: {{rounds: 20, cohort: 3, head_lr: 0.3, tail_lr: 0.3, evaluate_every: 5}}
flows:
  activations_up: {{codec: pq, subvectors: 4, groups: 1, centroids: 4}}
  gradient_down: {{codec: int8}}
  head_update_up: {{codec: float16}}
  head_state_down: {{codec: float16}}
stragglers: {{policy: wait_all, rejoin_s: 0.5, retry_s: 2.0}}
fleet: [{{count: 4}}]
"""


def small_scenario(folder: Path, *settings: str) -> Scenario:
    """Write the small scenario into a folder and load it with overrides."""
    return load_scenario(str(small_file(folder)), settings)


def small_file(folder: Path) -> Path:
    """Write the small scenario into a folder."""
    path = folder / "small.yaml"
    path.write_text(SMALL)
    return path


def final_score(summary: Summary) -> float:
    """Give the metric after the last round of a run that was evaluated."""
    final = summary["metric"]["final"]
    assert final is not None
    return final


def plan_of(scenario: Scenario, task: Task) -> Plan:
    """Give what the server's state machine and its tail must know of a scenario."""
    return make_plan(scenario, task, run="run", head=form_of(task.head()))
