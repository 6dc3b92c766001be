"""Who is in a fleet: clients by number, and clients by names of their own."""

from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.heads.parts import HeadForm
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.network import tell_names
from scenarios.schema.scenario import Scenario, client_names, group_of_each
from scenarios.tasks import task_of
from server_node.vocabulary.plan import make_plan
from sim.simulation.run import simulate
from tests.helpers import small_scenario


def of(tmp_path: Path, fleet: str, *more: str) -> Scenario:
    return small_scenario(tmp_path, "training.cohort=1", f"fleet={fleet}", *more)


def names(tmp_path: Path, fleet: str) -> list[str]:
    return client_names(of(tmp_path, fleet))


def test_clients_have_the_names_that_they_are_given(tmp_path: Path) -> None:
    assert names(tmp_path, "[{names: [pi-07, pi-08]}, {names: [roof_2]}]") == ["pi-07", "pi-08", "roof_2"]


def test_a_device_with_a_name_renames_nobody(tmp_path: Path) -> None:
    before = names(tmp_path, "[{count: 6}, {names: [pi-07]}, {count: 4}]")
    after = names(tmp_path, "[{names: [pi-01]}, {count: 6}, {names: [pi-07, pi-08]}, {count: 4}]")
    assert before == [*(f"c{n}" for n in range(6)), "pi-07", *(f"c{n}" for n in range(6, 10))]
    assert after == ["pi-01", *before[:7], "pi-08", *before[7:]]


def test_what_is_dumped_has_the_same_names(tmp_path: Path) -> None:
    scenario = of(tmp_path, "[{names: [pi-07, pi-08]}, {count: 3}]")
    file = tmp_path / "again.yaml"
    file.write_text(dump_resolved(scenario))
    assert load_scenario(file) == scenario


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ("[{link: lte}]", "fleet.0: takes count or names, one of the two"),
        ("[{count: 2, names: [a, b]}]", "fleet.0: takes count or names, one of the two"),
        ("[{names: []}]", "fleet.0.names: must be a list"),
        (
            "[{names: [a, pi 07]}]",
            "fleet.0.names.1: must be text of 1 to 32 letters, digits, _ or -, not 'pi 07'",
        ),
        ("[{names: [7]}]", "fleet.0.names.0: must be text of 1 to 32 letters, digits, _ or -, not 7"),
        ("[{names: [a, b, a]}]", "fleet.0.names.2: two clients are called 'a'"),
        ("[{names: [a]}, {names: [a]}]", "fleet.1.names.0: two clients are called 'a'"),
        ("[{names: [c1]}, {count: 2}]", "fleet.0.names.0: two clients are called 'c1'"),
        ("[{names: [server]}]", "fleet.0.names.0: 'server' is the server's own name"),
    ],
)
def test_names_that_cannot_be(tmp_path: Path, fleet: str, expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        of(tmp_path, fleet)
    assert expected in str(caught.value)


def test_a_cohort_is_held_against_all_clients(tmp_path: Path) -> None:
    fleet = "[{names: [a, b]}, {count: 2}]"
    assert of(tmp_path, fleet, "training.cohort=4").fleet_size == 4
    with pytest.raises(ScenarioError, match="at most the fleet's 4 clients"):
        of(tmp_path, fleet, "training.cohort=5")


def test_the_group_of_a_client_is_found_by_its_place(tmp_path: Path) -> None:
    scenario = of(tmp_path, "[{names: [a, b], link: lte}, {count: 2, link: wifi}, {names: [z], link: 3g}]")
    groups = zip(client_names(scenario), group_of_each(scenario), strict=True)
    links = {name: group.link for name, group in groups}
    assert links == {"a": "lte", "b": "lte", "c0": "wifi", "c1": "wifi", "z": "3g"}


def test_codecs_by_link_reach_clients_with_names(tmp_path: Path) -> None:
    scenario = of(
        tmp_path,
        "[{count: 2, link: wifi}, {names: [slow], link: 3g}]",
        "flows.by_link=[{uplink_below_kbps: 1000, gradient_down: {codec: int2}}]",
    )
    plan = make_plan(scenario, task_of(scenario), run="r", head=HeadForm(1))
    assert set(plan.by_link) == {"slow"}


def test_clients_with_names_take_part_in_virtual_time(tmp_path: Path) -> None:
    scenario = of(tmp_path, "[{names: [pi-07, pi-08]}, {count: 2}]", "training.cohort=4", "training.rounds=2")
    assert simulate(scenario, tmp_path / "run")["client_steps"] == 8


def test_a_sentence_about_a_fleet_names_all_or_the_ends() -> None:
    assert tell_names(["pi-07", "c0"]) == "the fleet has 2 clients: pi-07, c0"
    many = [f"c{number:02}" for number in range(50)]
    assert tell_names(many) == "the fleet has 50 clients: c00, c01, c02, ..., c49"
