"""The wheel, installed where there is no checkout, used from any folder."""

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import pytest

from broker.cli.commands import COMMANDS
from broker.servers.spawn import local_broker
from tests.packaging.test_requirements import PROJECT, closure, packages_of

ROOT = Path(__file__).parents[2]
ROOMS = ("broker", "scenarios", "edge_client", "server_node", "sim")
SHORT = ["--set=training.rounds=2", "--set=fleet=[{count: 2}]", "--set=training.cohort=2"]

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="makes symbolic links")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that the checkout stays clean."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, f"--wheel-dir={built}", str(source)], check=True)
    [file] = built.iterdir()
    return file


def installed(wheel: Path, folder: Path, packages: set[str]) -> Path:
    """Install the wheel into a fresh environment that sees these of our packages; gives its fedlite."""
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    site = Path(
        subprocess.check_output(
            [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
        ).strip()
    )
    for package in packages:
        for top in {file.parts[0] for file in distribution(package).files or ()} - {"..", "__pycache__"}:
            there = Path(str(distribution(package).locate_file(top)))
            if there.exists() and not (site / top).exists():
                (site / top).symlink_to(there)
    pip = [sys.executable, "-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(wheel)], check=True)
    return folder / "bin/fedlite"


@pytest.fixture(scope="module")
def everything(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    packages = closure([*PROJECT["dependencies"], *packages_of("all")])
    return installed(wheel, tmp_path_factory.mktemp("all") / "venv", packages)


@pytest.fixture(scope="module")
def edge_alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(wheel, tmp_path_factory.mktemp("edge") / "venv", closure(PROJECT["dependencies"]))


def run(program: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"FEDLITE_DATA": str(folder / "no-data")}
    return subprocess.run(
        [program, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_quickstart_runs_from_any_folder_with_the_data_of_the_wheel(everything: Path, tmp_path: Path) -> None:
    simulated = run(everything, tmp_path, "simulate", "quickstart", "--timing-only", "--json")
    assert simulated.returncode == 0, simulated.stderr
    assert json.loads(simulated.stdout.splitlines()[-1])["rounds"] == 100
    trained = run(everything, tmp_path, "run", "quickstart", *SHORT, "--json", "--processes=1")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout.splitlines()[-1])
    assert (summary["reason"], summary["rounds"]) == ("complete", 2)
    page = run(everything, tmp_path, "report", "runs/quickstart")
    assert page.returncode == 0, page.stderr


def test_a_device_takes_part_with_the_base_packages_alone(
    everything: Path, edge_alone: Path, tmp_path: Path
) -> None:
    with local_broker("embedded", tmp_path / "broker") as url:
        words = ["quickstart", f"--broker={url}", *SHORT]
        with subprocess.Popen(
            [everything, "server", *words], cwd=tmp_path, stdout=subprocess.DEVNULL
        ) as server:
            edge = run(edge_alone, tmp_path, "edge", *words)
            if edge.returncode:
                server.terminate()
    assert (edge.returncode, edge.stdout) == (0, "the run is over: complete\n"), edge.stderr
    assert server.returncode == 0


LOAD = """
from broker.cli.commands import COMMANDS, load
for name in COMMANDS:
    try:
        load(name)
    except SystemExit as end:
        assert end.code == 2
    else:
        print(name)
"""


def test_without_extras_a_command_says_which_one_it_needs(edge_alone: Path, tmp_path: Path) -> None:
    ran = run(edge_alone.with_name("python"), tmp_path, "-c", LOAD)
    alone = {name for name, command in COMMANDS.items() if not command.extra} | {"broker"}  # mosquitto
    assert set(ran.stdout.splitlines()) == alone, ran.stderr
    said = [f"pip install 'fedlite-mqtt[{COMMANDS[name].extra}]'" for name in COMMANDS if name not in alone]
    lines = ran.stderr.splitlines()
    assert len(lines) == len(said)
    assert all(words in line for words, line in zip(said, lines, strict=True))


@pytest.mark.parametrize(
    "words",
    [
        ("scenarios", "validate", "quickstart"),
        ("calibrate", "quickstart", "--repeat=2"),
        ("calibrate", "quickstart", "--repeat=2", "--server"),
    ],
    ids=" ".join,
)
def test_what_has_no_extra_works_without_one(
    edge_alone: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    ran = run(edge_alone, tmp_path, *words)
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("extra", ["server", "sim", "report"])
def test_an_extra_is_all_that_its_commands_need(wheel: Path, extra: str, tmp_path: Path) -> None:
    program = installed(wheel, tmp_path / "venv", closure([*PROJECT["dependencies"], *packages_of(extra)]))
    ran = run(program.with_name("python"), tmp_path, "-c", LOAD)
    assert {name for name, command in COMMANDS.items() if command.extra == extra} <= set(ran.stdout.split())
