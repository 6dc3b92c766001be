"""A person's mistake is told in one line; a bug keeps its traceback and says where to report it."""

import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.cli.console import REPORT_TO, command
from broker.errors import BrokerError, RunError
from broker.files import writing
from scenarios.errors import ScenarioError
from tests.experiments.test_reproduce import study_file
from tests.helpers import small_file


def told(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[object, list[str]]:
    """Give exit code and lines of a command that ends with an error."""

    @command
    def fails() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        fails()
    return ended.value.code, capsys.readouterr().err.splitlines()


def test_mistakes_are_a_line_each_and_none_twice(capsys: pytest.CaptureFixture[str]) -> None:
    errors = [BrokerError("no broker"), RunError("one\ntwo"), ExceptionGroup("", [BrokerError("no broker")])]
    lines = ["error: no broker", "error: one", "error: two"]
    assert told(ExceptionGroup("", errors), capsys) == (2, lines)


@pytest.mark.parametrize(
    "bug",
    [
        ValueError("negative shift count"),
        KeyError("c03"),
        OSError(errno.EBADF, "a socket of our own"),
        ExceptionGroup("several", [BrokerError("no broker"), ValueError("negative shift count")]),
        ExceptionGroup("", [ExceptionGroup("", [ScenarioError("a mistake")]), TypeError("not a tensor")]),
    ],
)
def test_a_bug_keeps_its_traceback_even_beside_mistakes(
    bug: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = told(bug, capsys)
    assert code == 1
    assert lines[-1] == f"error: {REPORT_TO}"
    text = "\n".join(lines)
    assert "Traceback (most recent call last)" in text
    assert all(type(inner).__name__ in text for inner in getattr(bug, "exceptions", [bug]))


def test_ctrl_c_of_a_command_without_a_loop_has_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(KeyboardInterrupt(), capsys) == (130, ["stopped"])


def one_line_of(*arguments: object) -> str:
    """Give the one line that a mistaken command says."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    [line] = result.output.splitlines()
    return line


@pytest.mark.parametrize(
    "words",
    [
        ["simulate"],
        ["run", "--processes=1"],
        ["sweep", "--grid=seed=1,2", "--mode=timing-only"],
        ["calibrate"],
    ],
)
def test_an_output_that_cannot_be_written_is_a_mistake(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    out = tmp_path / "file" / "out"
    name, *options = words
    if name == "calibrate":
        options += ["--repeat=2"]
    line = one_line_of(name, small_file(tmp_path), *options, f"--out={out}")
    assert line.startswith(f"error: cannot write {out}: ")
    assert line.endswith("; name another place, or make this one writable")


def test_a_study_whose_folder_is_a_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("in the way")
    line = one_line_of("reproduce", f"--study={study_file(tmp_path)}", f"--to={tmp_path / 'out'}")
    assert line.startswith(f"error: cannot write {tmp_path / 'out'}: File exists; ")


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    out = tmp_path / "run"
    line = one_line_of("simulate", small_file(tmp_path), f"--out={out}")
    assert line == f"error: cannot write {out / 'metrics.parquet'}: No space left on device; make room"


def no_memory(take: Callable[[], object]) -> Exception:
    with pytest.raises((MemoryError, RuntimeError)) as error:
        take()
    return error.value


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError(), id="python"),
        pytest.param(no_memory(lambda: np.zeros(2**60, np.int8)), id="numpy"),
        pytest.param(no_memory(lambda: torch.zeros(2**60, dtype=torch.int8)), id="torch"),
        pytest.param(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), id="system"),
        pytest.param(ImportError("a.so: failed to map segment from shared object"), id="loader"),
    ],
)
def test_too_little_memory_is_no_bug(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    code, [line] = told(error, capsys)
    assert code == 2
    first = (str(error) or "MemoryError").splitlines()[0]
    assert line == f"error: not enough memory ({first}): end other programs, or raise its limit"


def test_what_a_library_says_without_a_number_is_told_too(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*: disk quota; "), writing(tmp_path):
        raise OSError("disk quota")


def test_a_scenario_file_that_cannot_be_read_is_a_mistake(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("name: Käse".encode("latin-1"))
    assert one_line_of("simulate", file).startswith(f"error: {file}:1: is not text in UTF-8")


@pytest.mark.parametrize("kind", ["embedded", "mosquitto"])
def test_a_port_that_is_taken_is_told_before_a_broker_is_announced(tmp_path: Path, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        words = ["broker", f"--kind={kind}", f"--port={port}", f"--folder={tmp_path}"]
        result = CliRunner().invoke(app, words)
    told = (
        f"error: the broker cannot listen on 127.0.0.1:{port}: Address already in use; give another --port\n"
    )
    assert (result.exit_code, result.output) == (2, told)
