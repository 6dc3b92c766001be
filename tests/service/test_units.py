"""The units: what systemd thinks of them, and after which exit codes a service starts again."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import RunError
from broker.exits import Exit
from broker.provisioning.unit import (
    SERVER_UNIT_FILE,
    UNIT_FILE,
    mosquitto_drop_in,
    restarts,
    server_unit,
    unit_text,
)

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = {UNIT_FILE: unit_text("home", "pi-07"), SERVER_UNIT_FILE: server_unit("first")}


@pytest.fixture(scope="module")
def analyze() -> str:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("NOT CHECKED BY SYSTEMD: there is no systemd-analyze; apt-get install systemd")
    return program


def written(folder: Path, program: str = "/bin/true") -> list[Path]:
    """Write the units with a program that is there; systemd asks for it."""
    texts = {
        UNIT_FILE: unit_text("home", "pi-07", program=program),
        SERVER_UNIT_FILE: server_unit("first", program=program),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return [folder / name for name in texts]


def test_systemd_finds_no_fault_with_the_units(analyze: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [analyze, "verify", *written(tmp_path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_units_expose_little(analyze: str, tmp_path: Path) -> None:
    for unit in written(tmp_path):
        words = [analyze, "security", "--offline=true", "--threshold=15", str(unit)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout.splitlines()[-1]  # the threshold is ten times the exposure


def test_a_setting_that_systemd_does_not_know_would_be_noticed(analyze: str, tmp_path: Path) -> None:
    unit = written(tmp_path)[0]
    unit.write_text(unit.read_text().replace("ProtectSystem=", "ProtectSistem="))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert "ProtectSistem" in done.stderr


@pytest.mark.parametrize(
    ("name", "down"),
    [
        (UNIT_FILE, {Exit.CONFIGURATION, Exit.AUTHENTICATION}),
        (SERVER_UNIT_FILE, set(Exit) - {Exit.BUG, Exit.UNREACHABLE, Exit.NO_READER}),
    ],
)
def test_after_which_codes_a_service_stays_down(name: str, down: set[Exit]) -> None:
    assert {code for code in Exit if not restarts(UNITS[name], code)} == down


def test_a_service_that_starts_again_does_so_for_ever_and_with_pauses() -> None:
    for unit in (*UNITS.values(), mosquitto_drop_in()):
        lines = unit.splitlines()
        assert "StartLimitIntervalSec=0" in lines[: lines.index("[Service]")]
        assert any(line.startswith("RestartSec=") and int(line[11:]) >= 5 for line in lines)


def test_devices_do_not_depend_on_the_server() -> None:
    """Stopping the server ends no device; a device that is told to stop has not failed."""
    assert "SuccessExitStatus=130\n" in UNITS[UNIT_FILE]
    assert not {"Requires", "BindsTo", "PartOf"} & {
        line.split("=")[0] for line in UNITS[UNIT_FILE].splitlines()
    }


PLAIN = re.compile(r"[A-Za-z0-9_./@+=:,-]+")


@given(st.text(min_size=1, max_size=20) | st.from_regex(PLAIN, fullmatch=True), st.integers(0, 2))
def test_no_name_or_path_adds_words_or_lines_to_a_unit(text: str, where: int) -> None:
    fleet, client, program = (text if where == place else "x" for place in range(3))
    if not PLAIN.fullmatch(text):
        with pytest.raises(RunError, match="cannot stand in a systemd unit"):
            unit_text(fleet, client, program=program)
        return
    unit = unit_text(fleet, client, program=program)
    assert len(unit.splitlines()) == len(UNITS[UNIT_FILE].splitlines())
    command = next(line for line in unit.splitlines() if line.startswith("ExecStart="))
    assert command.split(" ")[1:] == ["edge", "--bundle", "/etc/fedlite/edge", "--stay"]


def test_the_files_for_readers_are_these_units() -> None:
    assert (DEPLOY / UNIT_FILE).read_text() == UNITS[UNIT_FILE].replace("pi-07", "NAME").replace(
        "home", "FLEET"
    )
    assert (DEPLOY / SERVER_UNIT_FILE).read_text() == UNITS[SERVER_UNIT_FILE]
    assert (DEPLOY / "mosquitto.service.d/fedlite.conf").read_text() == mosquitto_drop_in()
