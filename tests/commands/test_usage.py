"""Whatever is given to a command: it is told in plain words, with exit code 2 and no traceback."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli.commands import COMMANDS, app, load

GROUPS = {"fleet", "scenarios", "data"}
UGLY = re.compile(r"Input should|Value error|pydantic|Traceback|unable to parse|argument\(s\)")


def given(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), terminal_width=400)


def assert_told(result: Result) -> str:
    told = " ".join(re.sub(r"[╭╮╰╯─│]", " ", result.output).split())
    assert result.exit_code == 2, told
    assert not UGLY.search(told), told
    assert isinstance(result.exception, SystemExit)
    return told


def parts() -> Iterator[tuple[list[str], str]]:
    """Give every command and each of its options."""
    for name in COMMANDS:
        made = load(name)
        inner = [(name.split(), made)]
        if name in GROUPS:
            inner = [([name, word], command) for word, command in made.commands.items()]
        for words, command in inner:
            for parameter in command.params:
                if parameter.param_type_name == "option" and parameter.name != "help":
                    yield words, max(parameter.opts, key=len)


@pytest.mark.parametrize(
    ("words", "option"), [pytest.param(*each, id=" ".join((*each[0], each[1]))) for each in parts()]
)
def test_an_option_of_any_command_that_is_misspelt_is_told(words: list[str], option: str) -> None:
    told = assert_told(given(*words, f"{option}x", "y"))
    assert f"No such option: {option}x" in told


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_a_word_too_many_or_none_is_told(name: str) -> None:
    assert_told(given(*name.split(), "a", "b", "c", "d", "--nothing-like-it"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("run quickstart --processes 0", "Invalid value for '--processes': must be at least 1"),
        ("run quickstart --processes many", "Invalid value for '--processes': must be a whole number"),
        ("run quickstart --speed-up fast --shape", "Invalid value for '--speed-up': must be a number"),
        ("broker --port 99999", "Invalid value for '--port': must be at most 65535"),
        ("sweep stragglers --mode train", "'train' is not one of 'simulate', 'timing-only'"),
        ("simulate quickstart extra", "Unexpected: extra"),
        ("simulate quickstart --seed 3", "keys of the scenario are set with --set KEY.PATH=VALUE"),
        ("runn quickstart", "No such command 'runn'. Did you mean 'run'?"),
        ("scenarios lst", "No such command 'lst'. Did you mean 'list'?"),
        (
            "clear nope --broker localhost",
            "it must begin with mqtt:// or mqtts://; write it as mqtt://host:1883",
        ),
        (
            "server quickstart --broker host",
            "it must begin with mqtt:// or mqtts://; write it as mqtt://host:1883",
        ),
        ("reproduce --budget 5x", "--budget 5x: must be like 90s, 15m or 3h"),
    ],
)
def test_what_is_wrong_is_said_in_plain_words(line: str, words: str) -> None:
    assert words in assert_told(given(*line.split()))


@pytest.mark.parametrize("command", ["report", "trace"])
@pytest.mark.parametrize("place", ["nothing", "empty", "file"])
def test_what_is_no_run_folder_is_told(tmp_path: Path, command: str, place: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    told = assert_told(given(command, str(tmp_path / place)))
    assert "scenario.yaml" in told or "no such folder" in told
