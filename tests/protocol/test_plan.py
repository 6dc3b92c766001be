"""What the server's state machine takes from a scenario."""

from dataclasses import replace
from pathlib import Path

import pytest

from broker.codecs.targets import Labels
from broker.errors import RunError
from scenarios.fingerprint import model_fingerprint, package_version
from scenarios.heads.parts import HeadForm
from scenarios.schema.scenario import scenario_digest
from scenarios.tasks import task_of
from server_node.vocabulary.plan import Plan, RoundPolicy, make_plan, make_round_policy
from tests.helpers import small_scenario
from tests.protocol.test_server_core import CODECS, PLAN

SLOW = (
    "flows.by_link=[{uplink_below_kbps: 500, gradient_down: {codec: int4}}]",
    "fleet=[{count: 2}, {count: 1, link: 2g}, {count: 2, link: 3g}, {count: 2, link: 2g}]",
)


def test_every_number_of_the_plan_is_the_scenarios(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path,
        "seed=11",
        "training={rounds: 6, cohort: 2, local_steps: 3, evaluate_every: 4, head_lr: 0.4, lr_decay: linear}",
        "task.batch_size=7",
        "stragglers={policy: wait_all, rejoin_s: 1.5, retry_s: 2.5}",
    )
    task = replace(task_of(scenario), target_shape=(2, 3))
    plan = make_plan(scenario, task, run="r", head=HeadForm(144), incarnation=5)
    assert [plan.head_lr_in(number) for number in (1, 4)] == pytest.approx([0.4, 0.2])
    assert replace(plan, head_lr_in=PLAN.head_lr_in) == Plan(
        run="r",
        incarnation=5,
        digest=scenario_digest(scenario),
        seed=11,
        clients=("c0", "c1", "c2", "c3"),
        rounds=6,
        cohort=2,
        round_policy=RoundPolicy(2),
        steps=3,
        local_steps=3,
        codecs=scenario.flows.codecs_for("none"),
        cut_size=16,
        head_size=144,
        batch_size=7,
        targets=Labels(4, (2, 3)),
        evaluate_every=4,
        rejoin_s=1.5,
        retry_s=2.5,
        head_lr_in=PLAN.head_lr_in,
        model=model_fingerprint(scenario, task),
        package=package_version(),
    )


def test_a_first_server_has_the_lowest_incarnation_and_one_target_a_sample(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(144))
    assert (plan.incarnation, plan.targets) == (1, Labels(4))
    assert plan.by_link == {}


def test_in_fedavg_there_are_local_steps_but_no_exchanges(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.method=fedavg", "training.local_steps=3")
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(144))
    assert (plan.steps, plan.local_steps) == (0, 3)


def test_a_name_that_cannot_stand_in_a_topic_is_refused(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    with pytest.raises(RunError, match="a/b"):
        make_plan(scenario, task_of(scenario), run="a/b", head=HeadForm(144))


@pytest.mark.parametrize(
    ("stragglers", "policy"),
    [
        ("{policy: wait_all}", RoundPolicy(3)),
        ("{policy: deadline, deadline_s: 4.5, minimum: 2}", RoundPolicy(3, deadline_s=4.5, minimum=2)),
        ("{policy: over_select, extra: 1}", RoundPolicy(4, enough=3)),
        ("{policy: buffered, buffer: 2, max_staleness: 6}", RoundPolicy(3, enough=2, max_staleness=6)),
        ("{policy: buffered, buffer: 2, max_staleness: 0}", RoundPolicy(3, enough=2, max_staleness=0)),
    ],
)
def test_each_straggler_policy_is_a_rule_by_which_rounds_wait(
    tmp_path: Path, stragglers: str, policy: RoundPolicy
) -> None:
    assert make_round_policy(small_scenario(tmp_path, f"stragglers={stragglers}")) == policy


def test_late_members_are_kept_by_a_policy_that_allows_staleness_even_of_no_round() -> None:
    assert not RoundPolicy(3).keeps_late_members
    assert RoundPolicy(3, max_staleness=0).keeps_late_members
    assert RoundPolicy(3, max_staleness=2).keeps_late_members


def test_slow_groups_have_their_rules_codecs_and_all_others_the_usual_ones(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *SLOW)
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(144))
    assert plan.by_link == dict.fromkeys(("c2", "c5", "c6"), scenario.flows.codecs_for("2g"))
    assert plan.codecs_of("c1") == plan.codecs
    assert plan.codecs_of("c5") == scenario.flows.codecs_for("2g")


@pytest.mark.parametrize(
    ("rounds", "every", "evaluated"), [(5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 1, [1, 2, 3]), (3, 9, [3])]
)
def test_every_so_many_rounds_are_evaluated_and_always_the_last(
    rounds: int, every: int, evaluated: list[int]
) -> None:
    plan = replace(PLAN, rounds=rounds, evaluate_every=every, codecs=CODECS)
    assert [number for number in range(1, rounds + 1) if plan.evaluates(number)] == evaluated
