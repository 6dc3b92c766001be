"""The command as a newcomer meets it; whole runs are in test_faults."""

import json
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.cli.wording import format_bytes
from tests.helpers import small_file

runner = CliRunner()


COMMANDS = (
    *("run", "simulate", "sweep", "report", "calibrate"),
    *("broker", "server", "edge", "stop", "clear", "trace", "scenarios"),
)


def test_help_names_every_command() -> None:
    text = runner.invoke(app, ["--help"]).output
    assert [command for command in COMMANDS if command not in text] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_shipped_scenarios_are_listed_with_their_question() -> None:
    text = runner.invoke(app, ["scenarios", "list"]).output
    assert "quickstart" in text
    assert "?" in text


def test_what_is_shown_can_be_loaded_again(tmp_path: Path) -> None:
    shown = runner.invoke(app, ["scenarios", "show", "quickstart", "--set", "seed=5"]).output
    assert yaml.safe_load(shown)["seed"] == 5
    file = tmp_path / "again.yaml"
    file.write_text(shown)
    assert runner.invoke(app, ["scenarios", "show", str(file)]).output == shown


def test_a_valid_scenario_is_called_so(tmp_path: Path) -> None:
    result = runner.invoke(app, ["scenarios", "validate", str(small_file(tmp_path))])
    assert result.exit_code == 0
    valid, memory = result.output.splitlines()
    assert valid == "small: valid, 4 clients, 20 rounds"
    assert re.match(r"small: a device with one client needs about \d+ MiB \(", memory)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "quikstart"], "unknown scenario 'quikstart'; did you mean 'quickstart'?"),
        (["run", "quickstart", "--set", "training.cohrt=3"], "unknown key; did you mean 'cohort'?"),
        (["run", "quickstart", "--set", "training.cohort=51"], "must be at most the fleet's 50 clients"),
        (
            ["run", "quickstart", "--set", "flows.activations_up.subvectors=1000"],
            "subvectors must divide the 9216 values; 1000 does not, 768 and 1024 do",
        ),
        (["run", "quickstart", "--set", "flows.gradient_down.codec=int5"], "did you mean 'int"),
        (
            ["scenarios", "validate", "stragglers", "--set", "sweep={training.cohrt: [3]}"],
            "did you mean 'cohort'?",
        ),
        (["edge", "quickstart", "--broker", "tcp://x"], "not the URL of a broker"),
        (["edge", "quickstart", "--broker", "mqtt://127.0.0.1:1", "--clients", "50"], "numbers 0 to 49"),
        (["server", "quickstart", "--broker", "mqtt://127.0.0.1:1", "--run", "a/b"], "cannot be a run"),
        (["run", "quickstart", "--set", "task={name: fashion_mnist, path: /nowhere}"], "/nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_helps(arguments: list[str], words: str) -> None:
    result = runner.invoke(app, arguments)
    assert result.exit_code == 2
    assert words in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_json_output_is_json_alone(tmp_path: Path) -> None:
    command = ["simulate", str(small_file(tmp_path)), "--json", f"--out={tmp_path / 'run'}"]
    lines = runner.invoke(app, command).stdout.splitlines()
    assert [json.loads(line)["round"] for line in lines[:-1]] == list(range(1, 21))
    assert json.loads(lines[-1])["mode"] == "simulate"


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2.5e9, "2.5 GB"), (3e15, "3000.0 TB")]
)
def test_bytes_in_words(size: float, words: str) -> None:
    assert format_bytes(size) == words
