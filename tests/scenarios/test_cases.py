"""What people bring works, or is refused in one sentence before anything runs."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.exits import COMPLETE
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.loading.rehearsal import rehearse, rehearse_devices
from scenarios.schema.scenario import Scenario
from scenarios.tasks import femnist, task_of
from sim.simulation.run import simulate
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
    assert re.sub(r"in row \d+: with", "in row N: with", told).endswith(BROKEN[name][1])
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
    given = [told for _, told in BROKEN.values()]
    assert [message for message in messages if not any(message in told for told in given)] == []


# numbers with a unit, and anything else that a file may hold


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("fleet.0.link.uplink_kbps=1Mbit", "must be a number of kbit/s > 0, not '1Mbit'; write 1000"),
        ("stragglers.retry_s=5 min", "must be a number of seconds > 0, not '5 min'; write 300"),
        ("fleet.0.link={uplink_mbps: 1}", "unknown key; write uplink_kbps: 1000; allowed: "),
        ("fleet.0.link.loss=5", "not 5; it is a share: write 0.05 for 5 %"),
        ("fleet.0.link.loss=5%", "not '5%'; write 0.05"),
        ("training.learning_rate=1", "unknown key; did you mean 'head_lr' or 'tail_lr'? allowed: "),
        (
            "flows.gradient_down={codec: int8, bit: 4}",
            "unknown key; allowed: codec; for 4 bits write codec: int4",
        ),
        (
            "training.lr_decay=Liner",
            "mapping with the keys step_size, gamma, not 'Liner'; did you mean 'linear'?",
        ),
        ("stragglers={policy: deadline, deadline: 4}", "deadline: unknown key; did you mean 'deadline_s'?"),
        ("name=a b", "name: must be text of 1 to 32 letters, digits, _ or -, not 'a b'"),
    ],
)
def test_messages_say_what_to_write(tmp_path: Path, setting: str, told: str) -> None:
    with pytest.raises(ScenarioError, match=re.escape(told)):
        small_scenario(tmp_path, setting)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", r"my\.yaml: is empty; must be a mapping of keys to values$"),
        ("task:\n\tname: x\n", r"my\.yaml:2: not YAML: a tab; indent with spaces$"),
    ],
)
def test_files_that_hold_nothing_or_tabs_are_told(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(ScenarioError, match=told):
        load_scenario(tmp_path / "my.yaml")


def test_a_shipped_name_with_a_suffix_is_recognised() -> None:
    with pytest.raises(ScenarioError, match=r"is called quickstart, without \.yaml"):
        load_scenario("quickstart.yaml")


KEYS = [
    "seed", "training.rounds", "training.head_lr", "fleet.0.count", "fleet.0.link.latency_ms",
    "stragglers.retry_s", "network.broker.per_message_us", "training.correction.lambda", "task.batch_size",
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("value", ["3ms", "'7'", "many", "[1]", "{a: 1}", "-1", "null"])
def test_a_number_that_is_none_is_one_line(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, f"{key}={value}")
    assert key.rpartition(".")[0] in str(caught.value).splitlines()[0]


LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 9)
    | st.sampled_from(["", "deadline", "int8", "2g", "natural"])
)
NAMES = st.sampled_from(
    ["policy", "deadline", "codec", "kind", "name", "link", "flows", "0", "pattern", "trace", "file", "bits"]
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3)
)
SAYS_NOTHING = re.compile(r"must be (.+), not \1(;|$)", re.MULTILINE)
PLACES = st.sampled_from(
    ["task", "training", "flows", "flows.activations_up", "stragglers", "fleet", "fleet.0.link", "broker",
     "fleet.0.availability", "fleet.0.slowdown", "network", "task.partition"]
)  # fmt: skip


@given(PLACES, TREES)
def test_any_tree_is_a_scenario_or_a_mistake(
    tmp_path_factory: pytest.TempPathFactory, place: str, tree: object
) -> None:
    told = mistakes(tmp_path_factory.getbasetemp(), f"{place}={tree!r}".replace("None", "null"))
    assert not SAYS_NOTHING.search(told)


@given(st.lists(LEAVES | st.just([]) | st.just({}), max_size=3))
@example([])
def test_each_wrong_name_of_a_client_is_told_once(
    tmp_path_factory: pytest.TempPathFactory, names: list[object]
) -> None:
    setting = f"fleet=[{{names: {names!r}}}]".replace("None", "null")
    told = mistakes(tmp_path_factory.getbasetemp(), "training.cohort=1", setting)
    assert not SAYS_NOTHING.search(told)
    assert len(told.splitlines()) <= max(1, len(names))


def mistakes(folder: Path, *settings: str) -> str:
    """What is said about settings; empty when they make a scenario."""
    try:
        made = small_scenario(folder, *settings)
    except ScenarioError as error:
        return str(error)
    assert isinstance(made, Scenario)
    return ""


def test_leafs_pixels_above_one_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        pictures = {"w": {"x": [[255.0] * 784], "y": [3]}}
        (tmp_path / f"all_data_0_{part}_9.json").write_text(
            json.dumps({"users": ["w"], "user_data": pictures})
        )
    with pytest.raises(ScenarioError, match=r"ValueError: pixels must be 0\.0 to 1\.0, not 255 to 255"):
        femnist.load(tmp_path)
