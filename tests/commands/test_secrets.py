"""A password is in no output, file or list of processes of any command, wherever it was given."""

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.cli.console import command
from broker.cli.options import BROKER_VARIABLE, PASSWORD_VARIABLE, access_from
from broker.servers.spawn import local_broker
from scenarios.loading.load import dump_resolved, load_scenario
from tests.helpers import SMALL, small_file

SECRETS = st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), max_size=10).map(
    "pA55-{}".format
)
MISTAKES = st.sampled_from(
    ["{url}", "x{url}", "{url}/path", "{url}:99999", "http{url}", "mqtt://dev:{raw}@h", "mqtt://dev:{raw}"]
)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code != 1, result.output + str(result.exception)
    return result.output


def commands_with(url: str, file: str) -> Iterator[list[str]]:
    """Give command lines with a URL where it belongs, and where people put it."""
    yield ["scenarios", "show", file, f"--set=broker={{kind: url, url: '{url}'}}"]
    yield ["scenarios", "validate", file, f"--set=broker={{kind: url, url: '{url}'}}"]
    yield ["scenarios", "validate", file, f"--set=broker.url={url}"]
    yield ["scenarios", "validate", file, f"--set=broker.kind={url}"]
    yield ["scenarios", "validate", file, f"--set={url}"]
    yield ["scenarios", "show", file, f"--set=name={url}"]
    yield ["scenarios", "show", url]
    yield ["sweep", file, f"--grid=broker.url={url}"]
    yield ["server", file, f"--broker={url}", "--broker-timeout=0.01"]
    yield ["edge", f"--broker={url}", "--run=small", "--client=c0", "--broker-timeout=0.01"]
    yield ["edge", url, "--broker=mqtt://h"]
    yield ["stop", url, "--broker=mqtt://h"]
    yield ["stop", "small", url]
    yield ["fleet", "init", file, f"--broker={url}", "--to=/nowhere/fleet"]
    yield ["broker", f"--host={url}"]


@pytest.mark.parametrize("number", range(15))
@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=SECRETS, mistake=MISTAKES)
def test_no_command_repeats_a_password(tmp_path: Path, password: str, mistake: str, number: int) -> None:
    with contextlib.chdir(tmp_path):
        good = f"mqtt://dev:{quote(password, safe='')}@127.0.0.1:1"
        url = mistake.format(url=good, raw=password)
        output = run(*list(commands_with(url, str(small_file(tmp_path))))[number])
        assert password not in output
        assert quote(password, safe="") not in output


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SECRETS)
def test_a_scenario_is_written_without_the_password_and_read_again(tmp_path: Path, password: str) -> None:
    url = f"mqtts://dev:{quote(password, safe='')}@h"
    path = tmp_path / "secret.yaml"
    path.write_text(SMALL + f"broker: {{kind: url, url: {json.dumps(url)}}}\n")
    scenario = load_scenario(path)
    assert scenario.broker.url
    assert scenario.broker.url[0].password == password
    texts = [dump_resolved(scenario), repr(scenario), str(scenario), scenario.model_dump_json()]
    assert all(password not in text and quote(password, safe="") not in text for text in texts)
    path.write_text(texts[0])
    again = load_scenario(path)
    assert again.broker.url
    assert (again.broker.url[0].username, again.broker.url[0].password) == ("dev", None)
    assert dump_resolved(again) == texts[0]


@given(SECRETS)
def test_neither_logs_nor_tracebacks_show_it(password: str) -> None:
    url = f"mqtt://dev:{password}@h"

    @command
    def fails() -> None:
        logging.getLogger("x").warning("lost %s", url)
        raise ZeroDivisionError(url)

    @command
    def is_told() -> None:
        raise BrokenPipeError(url)

    for each in (fails, is_told):
        said = io.StringIO()
        handlers, logging.getLogger().handlers = logging.getLogger().handlers, []
        try:
            with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
                each()
        finally:
            logging.getLogger().handlers = handlers
        assert "@h" in said.getvalue()
        assert password not in said.getvalue()


def test_a_password_comes_from_the_nearest_place_that_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, file = tmp_path / "s.yaml", tmp_path / "password"
    file.write_text("of the file\n")
    (tmp_path / "scenarios").write_text("of the scenario\n")
    path.write_text(SMALL + "broker: {kind: url, url: 'mqtt://dev@h', password_file: scenarios}\n")
    spec = load_scenario(path).broker

    def password(*urls: str, **options: Any) -> str | None:
        return access_from(urls, spec=spec, **options).brokers[0].password

    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    assert password() == "of the scenario"
    assert password("mqtt://dev@h") is None  # another broker than the scenario's
    monkeypatch.setenv(PASSWORD_VARIABLE, "of the environment")
    assert password() == password("mqtt://dev@h") == "of the environment"
    assert password(password_file=file) == "of the file"
    assert password("mqtt://dev:own@h", password_file=file) == "own"
    assert password("mqtt://h") is None


def test_the_environment_does_not_send_a_run_of_this_machine_elsewhere() -> None:
    assert BROKER_VARIABLE in CliRunner().invoke(app, ["edge", "--help"], terminal_width=200).output
    assert BROKER_VARIABLE not in CliRunner().invoke(app, ["run", "--help"], terminal_width=200).output


@pytest.mark.slow
def test_a_run_leaves_no_password_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded broker takes any password; what counts is who else learns it."""
    secret, seen = "pA55-word%40x", list[Any]()
    begin = asyncio.create_subprocess_exec

    async def note(*words: Any, **options: Any) -> Any:
        seen.append(words)
        return await begin(*words, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", note)
    with local_broker("embedded", tmp_path / "broker") as url:
        with_user = url.replace("mqtt://", f"mqtt://dev:{secret}@")
        output = run(
            "run", str(small_file(tmp_path)), f"--set=broker={{kind: url, url: '{with_user}'}}",
            "--set=training.rounds=2", f"--out={tmp_path / 'run'}",
        )  # fmt: skip
    assert "results in" in output
    assert seen
    everything = [output, repr(seen)]
    everything += [
        path.read_text(errors="replace") for path in (tmp_path / "run").rglob("*") if path.is_file()
    ]
    for text in everything:
        assert secret not in text
        assert "pA55-word@x" not in text
