"""What a command imports: the rooms that it needs, and nothing that an extra brings unless it must."""

import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import pytest
import typer
from typer.testing import CliRunner

from broker.cli.commands import COMMANDS, app
from broker.cli.extras import extras, missing_extra

ROOMS = {"broker", "scenarios", "edge_client", "server_node", "sim"}
EXTRA = {"amqtt", "jinja2", "matplotlib", "pandas", "pyarrow", "safetensors", "simpy"}


def loaded(code: str) -> set[str]:
    """Give the packages that a fresh interpreter has loaded after some code."""
    words = [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"]
    ran = subprocess.run(words, capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in ran.stderr.splitlines()[-1].split()}


def loaded_by(*words: str) -> set[str]:
    return loaded(
        f"from typer.testing import CliRunner\nfrom broker.cli.commands import app\n"
        f"assert CliRunner().invoke(app, {list(words)}).exit_code == 0"
    )


@pytest.mark.parametrize("words", [("--help",), ("-h",), ("--version",)], ids=" ".join)
def test_the_list_of_commands_needs_none_of_them(words: tuple[str, ...]) -> None:
    rooms = {"scenarios", "edge_client", "server_node", "sim"}
    assert loaded_by(*words) & (EXTRA | rooms | {"torch", "numpy", "aiomqtt"}) == set()


@pytest.mark.parametrize("command", ["edge", "broker", "stop", "clear"])
def test_help_of_what_needs_no_model_does_without_torch(command: str) -> None:
    assert loaded_by(command, "--help") & (EXTRA | {"torch"}) == set()


def test_an_edge_loads_no_room_but_its_own_and_nothing_that_an_extra_brings() -> None:
    found = loaded("import broker.cli.commands, edge_client.__main__, edge_client.process")
    assert "torch" in found
    assert found & (EXTRA | {"sim", "server_node"}) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_command_itself_says(name: str) -> None:
    module, _, attribute = COMMANDS[name].target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    said = found.info.help if isinstance(found, typer.Typer) else inspect.getdoc(found)
    assert said is not None
    assert said.splitlines()[0] == COMMANDS[name].line


def test_version_is_that_of_the_package() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"fedlite {version('fedlite-mqtt')}\n")


@pytest.mark.parametrize(
    "words", [(), ("run",), ("scenarios",), ("scenarios", "show"), ("edge",)], ids=" ".join
)
def test_h_is_help_everywhere(words: tuple[str, ...]) -> None:
    results = [CliRunner().invoke(app, [*words, option]) for option in ("-h", "--help")]
    assert results[0].exit_code == 0
    assert results[0].output == results[1].output


@contextmanager
def without(package: str) -> Iterator[None]:
    """Let nobody import a package; our own modules are imported anew, and afterwards are those of before."""
    rooms = [name for name in sys.modules if name.partition(".")[0] in ROOMS]
    with pytest.MonkeyPatch.context() as patch:
        for name in [*rooms, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            patch.delitem(sys.modules, name)
        patch.setitem(sys.modules, package, None)
        yield
        for name in [name for name in sys.modules if name.partition(".")[0] in ROOMS]:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("package", "extra", "words"),
    [
        ("pyarrow", "server", ("server", "--help")),
        ("safetensors", "server", ("server", "quickstart", "--broker=mqtt://127.0.0.1:1")),
        ("amqtt", "server", ("broker", "--port=1")),
        ("simpy", "sim", ("simulate", "quickstart", "--timing-only")),
        ("pyarrow", "sim", ("run", "quickstart")),
        ("matplotlib", "report", ("report", ".")),
    ],
)
def test_a_missing_package_is_one_sentence_that_names_the_extra(
    package: str,
    extra: str,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["fedlite", *words])
    with without(package), pytest.raises(SystemExit) as ended:
        importlib.import_module("broker.cli.commands").app()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: this needs {package}, which is not installed: "
        f"pip install 'fedlite-mqtt[{extra}]' brings it\n"
    )


def test_a_package_of_no_extra_stays_a_bug() -> None:
    assert missing_extra(ModuleNotFoundError(name="no_such_package")) is None
    assert missing_extra(ModuleNotFoundError()) is None


def test_extras_are_read_from_the_package_itself() -> None:
    found = extras()
    assert found.keys() >= EXTRA - {"pandas"} | {"distributed", "h5py"}
    assert "torch" not in found
