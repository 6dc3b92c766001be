"""Every outcome of a command has an exit code of its own; the numbers are those of the docs."""

import asyncio
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli.commands import app
from broker.errors import AnotherServerError, BrokerError, RefusedError, UnreachableError, UserError
from broker.exits import EPILOG, Exit, exit_of
from broker.provisioning.unit import restarts
from broker.servers.spawn import local_broker
from broker.transports.mqtt import MqttTransport
from broker.wire import packing, topics
from broker.wire.messages import RunState
from edge_client.__main__ import _tell as tell_edge
from scenarios.loading.load import load_scenario
from server_node.live import serve
from tests.commands.test_errors import told
from tests.helpers import small_file

ROOT = Path(__file__).parents[2]
NOWHERE = "--broker=mqtt://127.0.0.1:1"


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("complete", 0),
        ("scenario: the device's is not the server's", 2),
        ("version: the server does not speak this client's", 2),
        ("superseded", 5),
        ("another server", 6),
        ("diverged: the loss is nan", 7),
        ("stopped for good", 8),
        ("stopped", 130),
    ],
)
def test_every_reason_has_its_code(reason: str, code: int) -> None:
    assert exit_of(reason) == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x"), 2),
        (BrokerError("x"), 2),
        (RefusedError("x"), 3),
        (UnreachableError("x"), 4),
        (AnotherServerError("x"), 6),
        (ExceptionGroup("", [UnreachableError("x"), UnreachableError("x")]), 4),
    ],
)
def test_every_mistake_has_its_code(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(error, capsys) == (code, ["error: x"])


def test_the_help_and_the_docs_have_all_codes() -> None:
    documented = re.findall(r"^\| (\d+) \| ", (ROOT / "docs/deployment.md").read_text(), re.MULTILINE)
    assert [int(code) for code in documented] == sorted(Exit)
    assert all(f" {code.value} " in EPILOG for code in Exit)
    for name in ("run", "server", "edge", "stop", "clear"):
        assert "Exit codes" in invoke(name, "--help").output


@pytest.mark.parametrize("command", ["server", "edge"])
def test_no_broker_within_the_time_given(tmp_path: Path, command: str) -> None:
    out = [f"--out={tmp_path / 'run'}"] if command == "server" else []
    result = invoke(command, small_file(tmp_path), NOWHERE, "--broker-timeout=0.2", *out)
    assert result.exit_code == Exit.UNREACHABLE, result.output


@contextmanager
def with_passwords(folder: Path) -> Iterator[str]:
    """Run a mosquitto that knows no user; give its address."""
    with local_broker("mosquitto", folder) as url:
        settings = next(folder.glob("*.conf"))
        text = settings.read_text().replace("allow_anonymous true", "allow_anonymous false")
    port = url.rpartition(":")[2]
    settings.write_text(text)
    mosquitto = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    with subprocess.Popen([mosquitto, "-c", str(settings)], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"mqtt://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.mark.parametrize("command", ["server", "edge", "stop", "clear"])
def test_a_broker_that_refuses_us_ends_a_command_that_would_wait_for_one(
    tmp_path: Path, command: str, mosquitto_program: str
) -> None:
    assert mosquitto_program
    what: object = small_file(tmp_path) if command in ("server", "edge") else "small"
    out = [f"--out={tmp_path / 'run'}"] if command == "server" else []
    with with_passwords(tmp_path / "broker") as url:
        result = invoke(command, what, f"--broker={url}", *out)
    assert result.exit_code == Exit.AUTHENTICATION, result.output
    assert "refuses us" in result.output


@pytest.mark.parametrize(
    "broken",
    [
        "broker.transports.aiomqtt_quirks.connect",
        "broker.transports.inbox.Inbox.receive",
        "broker.wire.packing.decode",
        "CORE.handle",
    ],
)
@pytest.mark.parametrize("command", ["server", "edge"])
def test_a_bug_wherever_it_is_ends_a_service_so_that_it_starts_again(
    command: str,
    broken: str,
    tmp_path: Path,
    embedded_url: str,
    run_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def bug(*_: object, **_named: object) -> None:
        raise ZeroDivisionError

    core = {"server": "server_node.protocol.core.ServerCore", "edge": "edge_client.core.ClientCore"}[command]
    asyncio.run(_say(embedded_url, topics.state(run_name), packing.encode(RunState("paused", 1))))
    monkeypatch.setattr(broken.replace("CORE", core), bug)
    out = [f"--out={tmp_path / 'run'}"] if command == "server" else []
    result = invoke(command, small_file(tmp_path), f"--broker={embedded_url}", f"--run={run_name}", *out)
    assert result.exit_code == Exit.BUG
    assert "ZeroDivisionError" in result.output
    assert restarts((ROOT / f"deploy/fedlite-{command}.service").read_text(), result.exit_code)


async def _say(url: str, topic: str, content: bytes) -> None:
    async with MqttTransport(url, client_id="says", subscriptions=[]) as transport:
        await transport.publish(topic, content, retain=True)


def test_a_folder_of_another_server(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    result = invoke("server", small_file(tmp_path), NOWHERE, f"--out={folder}")
    os.close(descriptor)
    assert result.exit_code == Exit.ANOTHER_SERVER
    assert "--takeover" in result.output


@pytest.mark.parametrize(
    "reason", ["superseded", "another server", "diverged: loss", "stopped for good", "stopped"]
)
def test_a_server_ends_with_the_code_of_its_reason_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    async def ends(*_arguments: object, **_options: object) -> dict[str, object]:
        return {"reason": reason, "messages": {}}

    assert serve.__name__ == "serve"
    monkeypatch.setattr("server_node.__main__.serve", ends)
    (tmp_path / "run").mkdir()
    result = invoke("server", small_file(tmp_path), NOWHERE, f"--out={tmp_path / 'run'}")
    assert result.exit_code == exit_of(reason)
    assert result.stderr.strip()


@pytest.mark.parametrize(
    ("reasons", "code", "words"),
    [
        ({"c0": "diverged: x", "c1": "diverged: x"}, 7, "the run is over: diverged: x\n"),
        ({"c0": "stopped for good"}, 8, "the run is over: stopped for good\n"),
        (
            {"c0": "complete", "c1": "roster: no client"},
            2,
            "the run is over: complete\nc1: roster: no client\n",
        ),
        ({"c0": "stopped"}, 130, ""),
    ],
)
def test_an_edge_says_why_its_clients_left(
    reasons: dict[str, str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer import Exit as Ended  # noqa: PLC0415

    with pytest.raises(Ended) as ended:
        tell_edge(reasons)
    said = capsys.readouterr()
    assert (ended.value.exit_code, said.out + said.err) == (code, words)


def test_a_run_that_is_over_says_so_at_once_and_can_be_begun_anew_or_made_longer(tmp_path: Path) -> None:
    file, out = small_file(tmp_path), f"--out={tmp_path / 'run'}"
    run = ("run", file, "--processes=1", "--set=training.rounds=3", out)
    assert invoke(*run).exit_code == 0
    again = invoke(*run)
    assert again.exit_code == 0
    first = again.stderr.splitlines()[0]
    assert first == "already complete: 3 rounds; --set training.rounds=6 adds rounds, --fresh begins anew"
    longer = invoke("run", file, "--processes=1", "--set=training.rounds=5", out)
    assert "5 rounds, 15 client steps" in longer.output
    assert "3 rounds, 9 client steps" in invoke(*run, "--fresh").output
    other = invoke(*run, "--set=seed=9")
    assert (other.exit_code, "seed was 3 and is 9 now" in other.output) == (2, True)
    assert load_scenario(str(tmp_path / "run" / "scenario.yaml")).training.rounds == 3


def test_edges_of_a_run_do_not_leave_because_an_earlier_run_of_the_name_is_over(
    tmp_path: Path, mosquitto_url: str
) -> None:
    for name in ("one", "two"):
        result = invoke(
            "run", small_file(tmp_path), "--processes=1", "--set=training.rounds=2", "--set=name=twice",
            "--set=broker.kind=url", f"--set=broker.url={mosquitto_url}", f"--out={tmp_path / name}",
        )  # fmt: skip
        assert result.exit_code == 0, result.output
        assert "2 rounds, 6 client steps" in result.output
