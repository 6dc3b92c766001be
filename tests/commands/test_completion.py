"""Scripts that complete command lines, tried in the shells themselves."""

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from broker.cli.commands import COMMANDS, app, load
from broker.cli.completion import Shell
from scenarios.loading.shipped import shipped


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[Shell, Path]:
    folder = tmp_path_factory.mktemp("scripts")
    found = {}
    for shell in Shell:
        result = CliRunner().invoke(app, ["completion", shell])
        assert result.exit_code == 0, result.output
        found[shell] = folder / shell
        found[shell].write_text(result.output)
    return found


def in_bash(script: Path, *words: str) -> list[str]:
    code = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _fedlite; echo "${COMPREPLY[@]}"'
    ran = subprocess.run(
        ["bash", "-c", code, "_", str(script), "fedlite", *words], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    return ran.stdout.split()


def in_fish(script: Path, line: str) -> list[str]:
    code = f"source {script}; complete -C '{line}'"
    ran = subprocess.run(["fish", "-c", code], capture_output=True, text=True, check=True)
    return [each.partition("\t")[0] for each in ran.stdout.splitlines()]


CASES = [
    ("swe", ["sweep"]),
    ("run pi-", ["pi-fleet"]),
    ("scenarios val", ["validate"]),
    ("scenarios validate strag", ["stragglers"]),
    ("edge che", ["check"]),
    ("sweep quickstart --seed", ["--seeds"]),
    ("sweep quickstart --mode ", ["simulate", "timing-only"]),
    ("reproduce --study fed", ["fedlite-paper"]),
    ("links plot leo", ["leo-satellite"]),
    ("data fetch fashion", ["fashion_mnist"]),
    ("completion ", ["bash", "fish", "zsh"]),
]


@pytest.mark.parametrize(("line", "found"), CASES)
def test_bash_completes(scripts: dict[Shell, Path], line: str, found: list[str]) -> None:
    assert sorted(in_bash(scripts[Shell.BASH], *line.split(" "))) == found


@pytest.mark.skipif(shutil.which("fish") is None, reason="needs fish")
@pytest.mark.parametrize(("line", "found"), CASES)
def test_fish_completes(scripts: dict[Shell, Path], line: str, found: list[str]) -> None:
    assert set(found) <= set(in_fish(scripts[Shell.FISH], f"fedlite {line}"))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="needs zsh")
def test_zsh_reads_its_script(scripts: dict[Shell, Path]) -> None:
    ran = subprocess.run(
        ["zsh", "-f", "-c", f"source {scripts[Shell.ZSH]} && whence -w _fedlite && print $_comps[fedlite]"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_fedlite: function" in ran.stdout
    assert "_bash_complete" in ran.stdout
    assert ran.stderr == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_is_completed(scripts: dict[Shell, Path], name: str) -> None:
    command = load(name)
    below = getattr(command, "commands", {})
    for words, each in [(name.split(), command), *(([name, word], one) for word, one in below.items())]:
        shown = {
            option for param in each.params if not getattr(param, "hidden", False)
            for option in (*param.opts, *param.secondary_opts) if option.startswith("-")
        }  # fmt: skip
        assert set(in_bash(scripts[Shell.BASH], *words, "-")) == (shown or set()) | {"--help"}
        assert set(below if each is command else ()) <= set(in_bash(scripts[Shell.BASH], *words, ""))


def test_every_shipped_scenario_is_completed(scripts: dict[Shell, Path]) -> None:
    assert in_bash(scripts[Shell.BASH], "simulate", "") == list(shipped())


def test_a_command_whose_packages_are_missing_is_completed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(_name: str) -> object:
        raise SystemExit(2)

    monkeypatch.setattr("broker.cli.completion.load", lacking)
    result = CliRunner().invoke(app, ["completion", "bash"])
    assert result.exit_code == 0
    assert "'simulate') words='' options=' --help'" in result.output
