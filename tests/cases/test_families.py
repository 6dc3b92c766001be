"""Tasks of people's kinds train live and in virtual time alike, or are refused before anything runs."""

import functools
import re
import time
from pathlib import Path

import pytest

from broker.transports.memory import MemoryBroker
from broker.transports.mqtt import MqttTransport
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.loading.rehearsal import rehearse
from scenarios.schema.scenario import Scenario
from server_node.summary import Summary
from server_node.vocabulary.ledger import FLOWS
from sim.simulation.run import simulate
from tests.cases.families import BROKEN, GOOD
from tests.helpers import small_file, small_scenario
from tests.live.test_live import run


def scenario_of(folder: Path, made: str) -> Scenario:
    module = folder / "kind_task.py"
    module.write_text(f"from tests.cases import families\n\ntask = families.{made}\n")
    settings = ["task.name=kind", f"task.module={module}", "training.rounds=2", "training.evaluate_every=1"]
    return small_scenario(folder, *settings)


def assert_same(live: Summary, simulated: Summary) -> None:
    assert live["reason"] == simulated["reason"] == "complete"
    assert live["messages"]["rejected"] == simulated["messages"]["rejected"] == 0
    assert {name: live["bytes"][name] for name in FLOWS} == {name: simulated["bytes"][name] for name in FLOWS}


def test_there_are_forty() -> None:
    assert len(GOOD) >= 20
    assert len(GOOD) + len(BROKEN) >= 40


@pytest.mark.parametrize("name", GOOD)
async def test_what_fits_trains_live_as_in_virtual_time(tmp_path: Path, name: str) -> None:
    scenario = scenario_of(tmp_path, f"GOOD[{name!r}]")
    simulated = simulate(scenario, tmp_path / "simulated")  # which rehearses it
    assert_same(await run(scenario, MemoryBroker().transport, tmp_path / "live"), simulated)


@pytest.mark.parametrize("name", ["convolutions of pixels", "transformer", "long short-term memory"])
async def test_a_few_train_over_a_real_broker(tmp_path: Path, name: str, mosquitto_url: str) -> None:
    scenario = scenario_of(tmp_path, f"GOOD[{name!r}]")
    live = await run(scenario, functools.partial(MqttTransport, mosquitto_url), tmp_path / "live")
    assert_same(live, simulate(scenario, tmp_path / "simulated"))


def told(scenario: Scenario) -> str:
    began_s = time.process_time()
    with pytest.raises(ScenarioError) as caught:
        rehearse(scenario)
    assert time.process_time() < began_s + 5
    return str(caught.value)


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_is_refused_in_one_sentence(tmp_path: Path, name: str) -> None:
    said = told(scenario_of(tmp_path, f"BROKEN[{name!r}][0]"))
    assert said.startswith("task.module: ")
    assert BROKEN[name][1] in re.sub(r"(?<=families\.py:)\d+|(?<=[^e]\()\d+(?=,)", "N", said)
    assert "\n" not in said


SOURCES = {
    "def task(:\n": r"my_task\.py fails: SyntaxError: invalid syntax \(my_task\.py:1\)$",
    "import nothing_like_it\n": (
        r"fails: ModuleNotFoundError: No module named 'nothing_like_it' \(my_task\.py:1\)$"
    ),
    "from torch import nnn\n": r"fails: ImportError: cannot import name 'nnn' .* \(my_task\.py:1\)$",
    "x = 1\n": r"my_task\.py has no function task\(\)$",
    "def task(size):\n    pass\n": r"fails: TypeError: task\(\) missing 1 required positional argument",
    "def task():\n\n    return 1 / 0\n": r"fails: ZeroDivisionError: division by zero \(my_task\.py:3\)$",
    "def task():\n    return 5\n": r"task\(\) of .*my_task\.py must return a scenarios\.task\.Task",
    "import sys\nsys.exit(3)\n": r"my_task\.py fails: SystemExit: 3 \(my_task\.py:2\)$",
    "def task():\n    raise ValueError('a\\nb')\n": r"fails: ValueError: a b \(my_task\.py:2\)$",
}


@pytest.mark.parametrize("source", SOURCES)
def test_mistakes_in_a_file_name_its_line(tmp_path: Path, source: str) -> None:
    (tmp_path / "my_task.py").write_text(source)
    with pytest.raises(ScenarioError, match=SOURCES[source]) as caught:
        load_scenario(small_file(tmp_path), ["task.name=kind", f"task.module={tmp_path / 'my_task.py'}"])
    assert "\n" not in str(caught.value)


def test_what_a_task_prints_is_told_and_kept_from_the_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    scenario = scenario_of(tmp_path, "GOOD['perceptron']")
    module = tmp_path / "kind_task.py"
    module.write_text(
        "from dataclasses import replace\nfrom tests.cases.families import GOOD, each_loss\n"
        "def loss(outputs, targets):\n"
        "    print('loss of', len(outputs))\n    return each_loss(outputs, targets)\n"
        "def task():\n    return replace(GOOD['perceptron'](), loss=loss)\n"
    )
    rehearse(scenario)
    assert "the task prints, such as 'loss of" in caplog.text
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("change", "warned"),
    [
        (
            "lambda split: Split(split.inputs.float(), split.targets)",
            "inputs are whole numbers from 0 to 255",
        ),
        (
            "lambda split: Split(split.inputs.float() / (255 if len(split) == 60 else 1), split.targets)",
            "training inputs go up to 1, test inputs up to 255: are both scaled alike?",
        ),
        ("lambda split: split", ""),
    ],
)
def test_pictures_that_are_scaled_oddly_are_told(
    tmp_path: Path, change: str, warned: str, caplog: pytest.LogCaptureFixture
) -> None:
    scenario = scenario_of(tmp_path, "GOOD['convolutions of pixels']")
    (tmp_path / "kind_task.py").write_text(
        "from dataclasses import replace\nfrom scenarios.task import Dataset, Split\n"
        "from tests.cases.families import GOOD\n\n"
        f"made = GOOD['convolutions of pixels']()\nchange = {change}\n"
        "def load():\n    data = made.load()\n    return Dataset(change(data.train), change(data.test))\n"
        "def task():\n    return replace(made, load=load)\n"
    )
    rehearse(scenario)
    assert warned in caplog.text
    assert bool(warned) == bool(caplog.text)
