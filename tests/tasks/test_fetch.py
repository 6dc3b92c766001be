"""Fetching data sets without a network, and the cache they go to."""

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.data import fetch as fetching
from scenarios.data.cache import data_folder, read_arrays, write_arrays
from scenarios.data.fetch import SOURCES, fetch
from scenarios.data.packages import check, from_debian, unpack
from scenarios.errors import ScenarioError
from scenarios.tasks import watch_exercises
from tests.small_data import Hostile, pickled_npy, watch_data, watch_dict, write_wheel


def test_data_lie_in_the_users_cache_unless_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder("x") == cache / "x"
    monkeypatch.delenv("FEDLITE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert data_folder("x") == Path("/xdg/fedlite/x")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert data_folder("x") == Path.home() / ".cache/fedlite/x"


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", {"n": np.arange(3), "words": np.array(["a", "bc"])})
    arrays = read_arrays(tmp_path / "a.npz", "x", {"n": ("i", 1), "words": ("U", 1)})
    assert arrays["n"].tolist() == [0, 1, 2]
    assert arrays["words"].tolist() == ["a", "bc"]


@pytest.mark.parametrize(
    ("form", "message"),
    [(("f", 1), "n is int64 in 1 dimensions"), (("i", 2), "n is int64 in 1 dimensions")],
)
def test_arrays_of_another_form_are_refused(tmp_path: Path, form: tuple[str, int], message: str) -> None:
    write_arrays(tmp_path / "a.npz", {"n": np.arange(3)})
    with pytest.raises(ScenarioError, match=message):
        read_arrays(tmp_path / "a.npz", "x", {"n": form})
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz", "x", {"other": form})


def test_objects_in_a_cached_file_are_refused_unread(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", n=np.array([Hostile(tmp_path / "ran")], object))
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz", "x", {"n": ("i", 1)})
    assert not (tmp_path / "ran").exists()


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.arange(3))
    for content in (b"", b"no zip", b"PK", (tmp_path / "array.npy").read_bytes()):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ScenarioError, match=r"a\.npz: cannot be read"):
            read_arrays(tmp_path / "a.npz", "x", {"n": ("i", 1)})


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder where pip looks, and nowhere else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return tmp_path / "index"


def test_fetched_watch_data_are_what_the_task_reads(
    index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, labels, subjects = watch_data()
    steps = sum(len(one) for one in series)
    data = pickled_npy(watch_dict(series, labels, subjects))
    sha256 = write_wheel(index, "seglearn", "1.2.5", {"seglearn/data/watch_dataset.npy": data})
    monkeypatch.setattr(fetching, "SEGLEARN", ("seglearn==1.2.5", sha256))
    result = CliRunner().invoke(app, ["data", "fetch", "watch_exercises"])
    assert result.output.splitlines() == [
        "watch_exercises: seglearn 1.2.5 from PyPI, 11.3 MB; licence: BSD-3-Clause",
        f"watch_exercises: 20 series of 10 people, {steps:,} time steps, in {cache / 'watch_exercises'}",
    ]
    assert [file.name for file in (cache / "watch_exercises").iterdir()] == ["watch.npz"]
    assert len(watch_exercises.task(None).load().train.targets) > 0
    again = CliRunner().invoke(app, ["data", "fetch", "watch_exercises"])
    assert again.output == f"watch_exercises: already in {cache / 'watch_exercises'}\n"


def test_a_package_with_another_checksum_is_refused(index: Path, cache: Path) -> None:
    write_wheel(index, "seglearn", "1.2.5", {"seglearn/data/watch_dataset.npy": b""})
    result = CliRunner().invoke(app, ["data", "fetch", "watch_exercises"])
    assert result.exit_code == 2
    assert "pip: seglearn==1.2.5 could not be fetched; the lines above say why" in result.output
    assert list((cache / "watch_exercises").iterdir()) == []


def test_an_interrupted_fetch_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path) -> str:
        (folder / "watch.npz").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setitem(SOURCES, "watch_exercises", SOURCES["watch_exercises"]._replace(make=interrupted))
    with pytest.raises(KeyboardInterrupt):
        fetch("watch_exercises", tmp_path / "to", lambda _: None)
    assert list((tmp_path / "to").iterdir()) == []


def test_data_go_where_they_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(folder: Path) -> str:
        (folder / "watch.npz").write_bytes(b"all")
        return "something"

    monkeypatch.setitem(SOURCES, "watch_exercises", SOURCES["watch_exercises"]._replace(make=make))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["data", "fetch", "watch_exercises", "--to", "to"])
    assert result.output.endswith(f"watch_exercises: something, in {tmp_path / 'to'}\n")
    assert (tmp_path / "to/watch.npz").read_bytes() == b"all"


def test_what_cannot_be_fetched_names_what_can() -> None:
    result = CliRunner().invoke(app, ["data", "fetch", "watch"])
    assert result.exit_code == 2
    known = f"did you mean 'watch_exercises'? known: {', '.join(SOURCES)}"
    assert f"nothing to fetch for 'watch'; {known}" in result.output


def test_debians_packages_need_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScenarioError, match="comes from Debian's archive, and there is no apt here"):
        from_debian("dataset-fashion-mnist", tmp_path)


def test_the_list_tells_licence_and_place(cache: Path) -> None:
    (cache / "watch_exercises").mkdir(parents=True)
    (cache / "watch_exercises/watch.npz").touch()
    text = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["data", "list"]).output
    assert str(cache / "watch_exercises") in text
    assert "BSD-3-Clause" in text


def write_program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_clothes_of_another_checksum_are_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(tmp_path / "bin", "apt-get", "touch clothes.deb")
    pictures = "$3/usr/share/datasets/fashion-mnist"
    write_program(
        tmp_path / "bin", "dpkg-deb", f"mkdir -p {pictures}; touch {pictures}/train-images-idx3-ubyte.gz"
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    result = CliRunner().invoke(app, ["data", "fetch", "fashion_mnist"])
    assert "train-images-idx3-ubyte.gz has another checksum than it should: e3b0c442" in result.output
    assert list((cache / "fashion_mnist").iterdir()) == []


def test_a_file_has_its_checksum_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")
    check(tmp_path / "f", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    with pytest.raises(ScenarioError, match="another checksum"):
        check(tmp_path / "f", "00")


def test_a_wheel_without_the_file_is_refused(tmp_path: Path) -> None:
    write_wheel(tmp_path, "other", "1", {})
    with pytest.raises(ScenarioError, match=r"other-1-py3-none-any\.whl has no data/x"):
        unpack(tmp_path / "other-1-py3-none-any.whl", "data/x", tmp_path / "x")
