"""Who may know whom: the arrows between the rooms."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.cli.commands import COMMANDS

ROOT = Path(__file__).parent.parent
ROOMS = {"broker", "scenarios", "edge_client", "server_node", "sim"}
FORBIDDEN = {
    "broker": {"torch", "simpy", "pydantic"} | ROOMS - {"broker"},
    "scenarios": {"aiomqtt", "paho", "amqtt", "simpy"} | ROOMS - {"scenarios", "broker"},
    "edge_client": {"simpy", "server_node", "sim", "pyarrow"},
    "server_node": {"simpy", "edge_client", "sim"},
    "sim": set[str](),
}
PURE = {  # no clock, socket, thread, event loop or global random state
    "broker/wire/messages.py", "broker/wire/chunks.py", "broker/wire/topics.py", "broker/wire/bits.py",
    "broker/wire/link_bytes.py",
    "broker/machine/actions.py", "edge_client/core.py", "edge_client/jobs.py",
    *(
        str(file.relative_to(ROOT))
        for folder in ("protocol", "vocabulary")
        for file in (ROOT / "server_node" / folder).rglob("*.py")
    ),
}  # fmt: skip
IMPURE = {"asyncio", "threading", "time", "socket", "random", "torch", "aiomqtt", "simpy", "os"}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            assert node.module is not None
            yield node.module


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_knows_only_its_neighbours(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file)
        if name.split(".")[0] in FORBIDDEN[room]
    }
    assert wrong == set()


WITHIN: dict[
    str, dict[str, set[str]]
] = {  # what a folder of a room may import of the other folders of that room
    "broker": {
        "wire": set(),
        "codecs": {"wire"},
        "transports": {"wire"},
        "machine": {"wire", "transports"},
        "servers": {"wire", "provisioning", "cli"},
        "provisioning": {"wire", "transports"},
        "installing": {"provisioning"},
        "cli": {"provisioning", "transports"},
    },
    "scenarios": {
        "schema": set(),
        "data": set(),
        "models": set(),
        "computing": {"schema"},
        "cutting": {"heads"},
        "heads": {"computing", "schema"},
        "tasks": {"data", "models", "schema", "cutting", "heads"},
        "local": set(),
        "loading": {"cutting", "schema", "tasks", "local", "computing", "heads"},
        "shipped": set(),
    },
    "edge_client": {"training": set(), "service": set()},
    "server_node": {
        "vocabulary": set(),
        "protocol": {"vocabulary"},
        "learning": {"vocabulary"},
        "board": {"protocol", "vocabulary"},
        "trackers": {"vocabulary"},
        "service": set(),
    },
    "sim": {
        "network": set(),
        "simulation": {"network"},
        "shaped": {"network", "simulation"},
        "live": {"shaped"},
        "statistics": set(),
        "report": {"statistics"},
        "watch": set(),
        "labels": set(),
        "advice": set(),
        "experiments": {"network", "simulation", "statistics"},
        "commands": {
            "network",
            "simulation",
            "live",
            "experiments",
            "report",
            "watch",
            "statistics",
            "labels",
        },
    },
}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_folder_knows_only_those_below_it(room: str) -> None:
    folders = {path.parent.name for path in (ROOT / room).glob("*/__init__.py")}
    assert folders == WITHIN[room].keys()
    wrong = {
        f"{file.relative_to(ROOT)} imports {name}"
        for folder, below in WITHIN[room].items()
        for file in (ROOT / room / folder).rglob("*.py")
        for name in imports(file)
        if name.startswith(f"{room}.") and name.split(".")[1] in folders - below - {folder}
    }
    assert wrong == set()


@pytest.mark.parametrize(
    "folder", ["sim/network", "sim/simulation", "sim/experiments", "sim/report", "sim/statistics"]
)
def test_virtual_time_needs_nothing_that_is_called_live(folder: str) -> None:
    names = {name for file in (ROOT / folder).rglob("*.py") for name in imports(file)}
    assert {name for name in names if "live" in name.split(".")} == set()


def test_the_command_names_other_rooms_as_text_alone() -> None:
    files = [ROOT / f"broker/cli/{name}.py" for name in ("__main__", "commands")]
    rooms = {name.partition(".")[0] for file in files for name in imports(file)}
    assert rooms & ROOMS == {"broker"}
    for command in COMMANDS.values():
        file = ROOT / f"{command.target.partition(':')[0].replace('.', '/')}.py"
        assert file.is_file(), command
        assert (file.relative_to(ROOT).parts[0] == "edge_client") <= (command.extra == "")


def test_rooms_are_small() -> None:
    for room in ROOMS:
        for folder in {file.parent for file in (ROOT / room).rglob("*.py")}:
            modules = [file for file in folder.glob("*.py") if not file.name.startswith("__")]
            assert len(modules) <= 12, folder
            assert {file.name for file in modules if len(file.read_text().splitlines()) >= 300} == set()


def test_scenarios_know_no_more_of_the_wire_than_codecs() -> None:
    names = {name for file in (ROOT / "scenarios").rglob("*.py") for name in imports(file)}
    wire = {name for name in names if name.startswith("broker")}
    assert {name for name in wire if not name.startswith("broker.codecs")} == {"broker.errors", "broker.urls"}


@pytest.mark.parametrize("path", sorted(PURE))
def test_the_core_is_pure(path: str) -> None:
    assert {name for name in imports(ROOT / path) if name.split(".")[0] in IMPURE} == set()


def test_nothing_unpickles_what_comes_from_outside() -> None:
    for room in ROOMS:
        for file in (ROOT / room).rglob("*.py"):
            assert not {"pickle", "shelve", "dill", "cloudpickle"} & set(imports(file)), file
