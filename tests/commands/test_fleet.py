"""`fedlite fleet` and `--bundle`: what is printed, what is refused, and a run from the first command on."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli.commands import app
from broker.provisioning.bundle import read_bundle
from broker.provisioning.fleet import Fleet
from tests.helpers import small_file
from tests.provisioning.fleets import broker_of, free_port

ROOT = Path(__file__).parents[2]


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def init(tmp_path: Path, *options: object) -> Path:
    result = invoke("fleet", "init", small_file(tmp_path), f"--to={tmp_path / 'fleet'}", *options)
    assert result.exit_code == 0, result.output
    return tmp_path / "fleet"


def test_a_fleet_is_made_of_a_scenario(tmp_path: Path) -> None:
    fleet = Fleet(init(tmp_path, "--broker=pi.local", "--broker=10.0.0.1:8884", "--broker=fe80::1%eth0"))
    assert list(fleet.state.runs) == ["small"]
    assert list(fleet.state.members) == [
        "server.small", "c0", "c1", "c2", "c3", "operator.main", "observer.main",
    ]  # fmt: skip
    assert fleet.state.brokers == [
        "mqtts://pi.local:8883", "mqtts://10.0.0.1:8884", "mqtts://[fe80::1%25eth0]:8883",
    ]  # fmt: skip
    bundle = read_bundle(fleet.bundle_folder("c0"), "device")
    assert bundle.run == "small"
    assert Path(bundle.task_module).name == "small_task.py"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["add", "c0"], "c0 is in the fleet; `fedlite fleet rotate c0`"),
        (["add", "a b"], "cannot be a run or client name"),
        (["add", "x", "--run=other"], "fedlite fleet allow other"),
        (["revoke", "x"], "'x' is not in the fleet"),
        (["rotate"], "say what to rotate"),
        (["rotate", "c0", "--all"], "say what to rotate"),
        (["rotate", "x"], "'x' is not in the fleet"),
        (["allow", "no/run"], "cannot be a run or client name"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(tmp_path: Path, arguments: list[str], words: str) -> None:
    folder = init(tmp_path, "--broker=h", "--auth=password")
    before = (folder / "fleet.json").read_bytes()
    result = invoke("fleet", *arguments, f"--fleet={folder}")
    assert result.exit_code == 2
    assert words in result.output
    assert len(result.output.splitlines()) == 1
    assert (folder / "fleet.json").read_bytes() == before


@pytest.mark.parametrize("host", ["mqtt://h", "mqtts://u@h", "a b", "h:port", "bücher.example"])
def test_a_broker_that_is_no_host_is_refused(tmp_path: Path, host: str) -> None:
    result = invoke("fleet", "init", small_file(tmp_path), f"--broker={host}", f"--to={tmp_path / 'f'}")
    assert result.exit_code == 2
    assert not (tmp_path / "f").exists()


def test_no_fleet_is_told_with_a_remedy(tmp_path: Path) -> None:
    result = invoke("fleet", "list", f"--fleet={tmp_path}")
    assert (result.exit_code, "fedlite fleet init" in result.output) == (2, True)


def test_the_list_says_who_is_there_and_until_when(tmp_path: Path) -> None:
    folder = init(tmp_path, "--broker=h")
    fleet = Fleet(folder)
    certificates = fleet.state.members["c3"].certificates
    certificates[next(iter(certificates))] = "2020-01-01T00:00:00+00:00"
    fleet._save()
    output = invoke("fleet", "list", f"--fleet={folder}").output
    (late,) = [line for line in output.splitlines() if " c3 " in line]
    assert "rotate it" in late
    assert output.count("rotate it") == 1
    assert "4 devices, 1 server, 1 operator, 1 observer" in output


def test_without_the_package_for_certificates_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "broker.provisioning.fleet", raising=False)
    monkeypatch.delitem(sys.modules, "broker.provisioning.certificates", raising=False)
    result = invoke("fleet", "init", small_file(tmp_path), "--broker=h", f"--to={tmp_path / 'f'}")
    assert result.exit_code == 2
    assert "fedlite-mqtt[fleet]" in result.output


def test_a_bundle_says_where_a_device_has_its_data(tmp_path: Path) -> None:
    folder = init(tmp_path, "--broker=h") / "bundles/c0"
    file = folder / "edge.yaml"
    assert read_bundle(folder, "device").data == ""
    file.write_text(file.read_text() + "data: images\n")
    assert read_bundle(folder, "device").data == str(folder / "images")
    command = ["edge", str(small_file(tmp_path)), f"--bundle={folder}", "--set=task.partition=local"]
    assert f"no such file or folder: {folder / 'images'}" in invoke(*command).output
    assert f"no such file or folder: {tmp_path / 'x'}" in invoke(*command, f"--data={tmp_path / 'x'}").output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edge", "--bundle={}/c0", "--client=c1"], "the broker lets it be nobody else"),
        (["edge", "--bundle={}/server.small"], "the bundle of a server, not of a device"),
        (["edge", "--bundle={}/c0.tar.gz"], "unpack it"),
        (["edge", "--bundle={}"], "is no bundle"),
        (["edge", "--bundle={}/c0", "--broker=mqtt://h"], "encrypted connections"),
        (["stop", "small", "--bundle={}/c0"], "the bundle of a device, not of an operator"),
        (["server", "SMALL", "--bundle={}/server.small", "--run=other"], "fedlite fleet allow other"),
        (["server", "SMALL"], "where is the broker?"),
        (["stop", "small"], "where is the broker?"),
        (["run", "SMALL", "--ca-file=x"], "go with --broker"),
        (["stop", "small", "--broker=mqtt://h", "--ca-file=x"], "nothing is encrypted"),
        (["stop", "small", "--broker=mqtt://h", "--password-file={}/c0/password"], "no user name"),
        (["stop", "small", "--broker=mqtt://u@h", "--password-file=nowhere"], "no password can be read"),
    ],
)
def test_bundles_and_options_that_do_not_fit_are_explained(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    folder = init(tmp_path, "--broker=h", "--auth=password") / "bundles"
    small = str(tmp_path / "small.yaml")
    result = invoke(*(small if each == "SMALL" else each.format(folder) for each in arguments))
    assert result.exit_code == 2, result.output
    assert words in result.output


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "pi.local"])
def test_a_broker_for_everybody_has_to_be_asked_for(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    monkeypatch.setattr("broker.__main__.run_broker", lambda _, *, host, **_options: started.append(host))
    result = invoke("broker", f"--host={host}")
    assert result.exit_code == 2
    assert "--anonymous" in result.output
    assert "--fleet" in result.output
    assert invoke("broker", f"--host={host}", "--anonymous").exit_code == 0
    assert invoke("broker").exit_code == 0
    assert invoke("broker", "--host=::1").exit_code == 0
    assert started == [host, "127.0.0.1", "::1"]


def test_a_broker_without_its_files_does_not_start(tmp_path: Path) -> None:
    result = invoke("broker", f"--fleet={tmp_path}")
    assert (result.exit_code, "fedlite fleet init" in result.output) == (2, True)
    folder = init(tmp_path, "--broker=h")
    (folder / "broker/broker.key").unlink()
    result = invoke("broker", f"--fleet={folder}")
    assert (result.exit_code, "not the files of a fleet's broker" in result.output) == (2, True)
    assert invoke("broker", f"--fleet={folder}", "--anonymous").exit_code == 2


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["certificate", "password"])
def test_a_run_from_bundles_alone(tmp_path: Path, mosquitto_program: str, auth: str) -> None:
    assert mosquitto_program
    folder = init(tmp_path, "--broker=127.0.0.1", f"--port={free_port()}", f"--auth={auth}")
    program = [sys.executable, "-m", "broker.cli"]
    with broker_of(Fleet(folder), "mosquitto", tmp_path / "data"):
        edges = [
            subprocess.Popen([*program, "edge", f"--bundle={folder}/bundles/c{number}"], cwd=ROOT)
            for number in range(4)
        ]
        server = [f"--bundle={folder}/bundles/server.small", f"--out={tmp_path / 'run'}"]
        subprocess.run(
            [*program, "server", tmp_path / "small.yaml", *server], cwd=ROOT, check=True, timeout=100
        )
        assert [edge.wait(timeout=30) for edge in edges] == [0] * 4
        result = invoke("clear", "small", f"--bundle={folder}/bundles/operator.main")
        assert "cleared" in result.output
