"""What people bring works, or is refused in one sentence before anything runs."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.exits import COMPLETE
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.rehearsal import rehearse, rehearse_devices
from scenarios.loading.trial.trial import UNSTEADY
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from sim.simulation.run import simulate
from tests.cases import families, target_kinds
from tests.cases.kinds import BROKEN, GOOD
from tests.helpers import small_file, small_scenario

ROOT = Path(__file__).parents[2]


def settings_of(folder: Path, collection: str, name: str) -> list[str]:
    module = folder / "kind_task.py"
    made = f"{collection}[{name!r}]{'[0]' if collection == 'BROKEN' else ''}"
    module.write_text(f"from tests.cases.kinds import {collection}\n\ntask = {made}\n")
    owners = "natural" if name.startswith("one sample") else "iid"
    return ["task.name=kind", f"task.module={module}", f"task.partition={owners}", "training.rounds=2"]


def error_of(scenario: Scenario) -> str:
    with pytest.raises(ScenarioError) as caught:
        rehearse(scenario)
    return str(caught.value)


@pytest.mark.parametrize("name", GOOD)
def test_what_fits_trains(tmp_path: Path, name: str) -> None:
    scenario = small_scenario(tmp_path, *settings_of(tmp_path, "GOOD", name))
    assert simulate(scenario, tmp_path / "run")["reason"] == COMPLETE


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    told = error_of(small_scenario(tmp_path, *settings_of(tmp_path, "BROKEN", name)))
    assert told.startswith("task.module: ")
    assert re.sub(r"in row \d+: with", "in row N: with", told.partition(" (kinds.py:")[0]).endswith(
        BROKEN[name][1]
    )
    assert "\n" not in told


@pytest.mark.parametrize("command", [["scenarios", "validate"], ["simulate"], ["run"]])
def test_commands_refuse_before_they_begin(tmp_path: Path, command: list[str]) -> None:
    settings = settings_of(tmp_path, "BROKEN", "another cut")
    options = [f"--set={setting}" for setting in settings]
    out = ["--out", str(tmp_path / "run")] if len(command) == 1 else []
    result = CliRunner().invoke(app, [*command, str(small_file(tmp_path)), *options, *out])
    assert result.exit_code == 2
    assert result.output == f"error: task.module: {BROKEN['another cut'][1]}\n"
    assert not (tmp_path / "run").exists()


def test_a_device_looks_at_its_own_rows_only(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *settings_of(tmp_path, "BROKEN", "a NaN in one row"))
    found = re.search(r"an input of client (\w+)", error_of(scenario))
    assert found is not None
    task = task_of(scenario)
    rehearse_devices(scenario, task, [name for name in ("c0", "c1", "c2", "c3") if name != found[1]])
    with pytest.raises(ScenarioError, match=f"client {found[1]} is nan"):
        rehearse_devices(scenario, task, [found[1]])


def test_more_clients_than_samples_can_be_simulated_without_training_only(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "fleet.0.count=6000", "training.rounds=1")
    with pytest.raises(MissingDataError, match="200 training samples are not enough for 6000 clients"):
        rehearse(scenario)
    with pytest.raises(MissingDataError):
        simulate(scenario, tmp_path / "run")


def test_the_messages_in_the_guide_are_those_that_are_given() -> None:
    page = (ROOT / "docs/extending.md").read_text("utf-8")
    messages = re.findall(
        r"^\| [^|]+ \| `([^`|]+)` \|$", page.partition("| the message |")[2], flags=re.MULTILINE
    )
    assert len(messages) >= 10
    given = [
        UNSTEADY,
        *(told for _, told in (*BROKEN.values(), *families.BROKEN.values(), *target_kinds.BROKEN.values())),
    ]
    assert [message for message in messages if not any(message in told for told in given)] == []
