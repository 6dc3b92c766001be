"""stackoverflow_tags and stackoverflow_nwp: the two forms of their files, and the tasks."""

import sys
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from scenarios.data import stackoverflow as files
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.models import next_word
from scenarios.schema.task_spec import TaskSpec
from scenarios.task import Dataset, Task
from scenarios.tasks import load_task, stackoverflow
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.small_data import losses

Users = dict[str, list[files.Sentence]]
TOPICS = ("python", "java", "css", "sql", "git")
NEEDED = (
    "stackoverflow_train.h5 and stackoverflow_test.h5 of TensorFlow Federated, or parquet files with the "
    "columns client_id, tokens, tags"
)


def sentences(count: int, first: int = 0) -> list[files.Sentence]:
    """Make sentences whose words tell their tags."""
    return [
        files.Sentence(
            f"how do i use {TOPICS[n % 5]} here ?", f"{TOPICS[n % 5]} question {n}", f"{TOPICS[n % 5]}|common"
        )
        for n in range(first, first + count)
    ]


def write_h5(file: Path, users: Users) -> None:
    text = h5py.string_dtype()
    with h5py.File(file, "w") as opened:
        for user, said in users.items():
            group = opened.create_group(f"examples/{user}")
            for column in files.Sentence._fields:
                group[column] = np.array([getattr(one, column) for one in said], text)
            for column in ("creation_date", "score", "type"):
                group[column] = np.array([b""] * len(said), text)


def write_parquet(file: Path, users: Users, *, title: bool = True) -> None:
    rows = [(user, one) for user, said in users.items() for one in said]
    table: dict[str, list[str]] = {"client_id": [user for user, _ in rows]}
    for column in files.Sentence._fields:
        if title or column != "title":
            table[column] = [getattr(one, column) for _, one in rows]
    parquet.write_table(pa.table(table), file)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Write files of the release's form; their users come in another order than their names'."""
    write_h5(
        tmp_path / "stackoverflow_train.h5", {"00000017": sentences(10), "00000001": sentences(20), "9": []}
    )
    write_h5(tmp_path / "stackoverflow_test.h5", {"00000001": sentences(5), "00000003": sentences(15)})
    return tmp_path


def load(name: str, folder: Path) -> Dataset:
    return load_task(TaskSpec(name=name, path=folder, partition="natural")).load()


def same(one: Dataset, other: Dataset) -> bool:
    return all(
        torch.equal(a, b)
        for first, second in ((one.train, other.train), (one.test, other.test))
        for a, b in ((first.inputs, second.inputs), (first.targets, second.targets))
    )


def owner_counts(data: Dataset) -> list[int]:
    assert data.owners is not None
    return np.bincount(data.owners).tolist()  # type: ignore[no-any-return]  # numpy's stubs


# the files


def test_tags_are_read_from_the_release(release: Path) -> None:
    data = load("stackoverflow_tags", release)
    assert owner_counts(data) == [20, 10]  # in the order of names
    assert data.train.inputs.dtype == torch.int32
    assert data.train.targets.shape == (30, 500)
    assert data.train.targets.dtype == torch.uint8
    assert data.train.targets[0].nonzero().flatten().tolist() == [
        0,
        1,
    ]  # the commonest, and the first of five
    assert (data.train.inputs[0] > 0).sum() == 9  # each word of sentence and title once
    assert data.test.targets.shape == (15, 500)  # ten sentences of a user at most


def test_next_words_are_read_from_the_release(release: Path) -> None:
    data = load("stackoverflow_nwp", release)
    assert owner_counts(data) == [20, 10]
    assert data.train.inputs.shape == data.train.targets.shape == (30, 20)
    assert torch.equal(data.train.inputs[:, 1:].long(), data.train.targets[:, :-1])
    assert (data.train.targets > next_word.PADDING).sum(dim=1).tolist() == [6] * 30
    assert len(data.test.targets) == 15


@pytest.mark.parametrize("name", ["stackoverflow_tags", "stackoverflow_nwp"])
def test_parquet_files_give_what_the_release_gives(release: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    write_parquet(folder / "train-0.parquet", {"00000001": sentences(12)})
    write_parquet(folder / "train-1.parquet", {"00000001": sentences(8, 12), "00000017": sentences(10)})
    write_parquet(folder / "test-0.parquet", {"00000001": sentences(5), "00000003": sentences(15)})
    data = load(name, folder)
    assert owner_counts(data) == [20, 10]
    assert same(data, load(name, release))


def test_without_test_files_the_last_tenth_of_each_user_is_tested(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"7": sentences(30), "3": sentences(9)}, title=False)
    data = load("stackoverflow_tags", tmp_path)
    assert owner_counts(data) == [27, 9]
    assert data.test.targets.nonzero()[:, 1].tolist() == [
        0,
        3,
        0,
        4,
        0,
        5,
    ]  # sentences 27 to 29: css, sql, git
    assert set((data.train.inputs > 0).sum(dim=1).tolist()) == {7}  # no titles


@pytest.mark.parametrize("form", ["h5", "parquet"])
def test_only_the_first_users_and_sentences_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(files, "USERS", 2)
    monkeypatch.setattr(files, "SENTENCES", 6)
    monkeypatch.setattr(files, "TEST_SENTENCES", 4)
    users = {f"{n}": sentences(9) for n in range(1, 5)}
    for part in ("train", "test"):
        if form == "h5":
            write_h5(tmp_path / f"stackoverflow_{part}.h5", users)
        else:
            write_parquet(tmp_path / f"{part}.parquet", users)
    data = load("stackoverflow_nwp", tmp_path)
    assert owner_counts(data) == [6, 6]
    assert len(data.test.targets) == 8


def test_what_is_beyond_the_first_users_is_not_even_looked_at(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with h5py.File(release / "stackoverflow_train.h5", "a") as opened:
        del opened["examples/9"]["tokens"]
    with pytest.raises(ScenarioError, match="not the StackOverflow"):
        load("stackoverflow_nwp", release)
    monkeypatch.setattr(files, "USERS", 2)
    assert owner_counts(load("stackoverflow_nwp", release)) == [20, 10]


def test_long_sentences_are_cut_and_single_words_left_out(tmp_path: Path) -> None:
    said = [files.Sentence(" ".join(["word"] * 40), "", "a"), files.Sentence("word", "", "a")]
    write_parquet(tmp_path / "train.parquet", {"1": said})
    write_parquet(tmp_path / "test.parquet", {"1": said})
    data = load("stackoverflow_nwp", tmp_path)
    assert data.train.targets.shape == (1, 20)
    assert set(data.train.targets.flatten().tolist()) == {next_word.SPECIAL}


def test_sentences_without_one_of_the_tags_are_left_out(tmp_path: Path) -> None:
    said = [files.Sentence("a b", "", "x"), files.Sentence("a b", "", "")]
    write_parquet(tmp_path / "train.parquet", {"1": said})
    write_parquet(tmp_path / "test.parquet", {"1": [*said, files.Sentence("a", "", "new")]})
    data = load("stackoverflow_tags", tmp_path)
    assert (len(data.train.targets), len(data.test.targets)) == (1, 1)


# what is wrong with files


@pytest.mark.parametrize("name", ["stackoverflow_tags", "stackoverflow_nwp"])
def test_the_tasks_need_their_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_task(TaskSpec(name=name, partition="natural"))
    assert str(caught.value) == f"task.path: {name} needs the folder with {NEEDED}"
    write_h5(tmp_path / "stackoverflow_train.h5", {"1": sentences(3)})  # and no test file
    with pytest.raises(ScenarioError) as caught:
        load(name, tmp_path)
    assert str(caught.value) == f"task.path: {tmp_path} must hold {NEEDED}"


def test_without_h5py_the_error_says_what_to_install(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ScenarioError) as caught:
        load("stackoverflow_nwp", release)
    assert str(caught.value) == "stackoverflow_train.h5 needs h5py: pip install h5py"


def test_other_h5_files_are_refused(release: Path) -> None:
    file = release / "stackoverflow_train.h5"
    refused = rf"{file}: not the StackOverflow of TensorFlow Federated: "
    contents: dict[str, dict[str, object]] = {
        "no examples": {"other/1/tokens": np.zeros(2)},
        "no groups": {"examples": np.zeros(2)},
        "no datasets": {"examples/1": np.zeros(2)},
        "numbers": {f"examples/1/{column}": np.zeros(2) for column in files.Sentence._fields},
        "scalars": {f"examples/1/{column}": "text" for column in files.Sentence._fields},
        "groups": {f"examples/1/{column}/more": np.zeros(2) for column in files.Sentence._fields},
        "lengths": {
            f"examples/1/{column}": np.array(["a"] * count, h5py.string_dtype())
            for count, column in enumerate(files.Sentence._fields, 1)
        },
    }
    for content in contents.values():
        with h5py.File(file, "w") as opened:
            for name, value in content.items():
                opened[name] = value
        with pytest.raises(ScenarioError, match=refused):
            load("stackoverflow_tags", release)
    for data in (b"no h5", (release / "stackoverflow_test.h5").read_bytes()[:3000]):
        file.write_bytes(data)
        with pytest.raises(ScenarioError, match=refused):
            load("stackoverflow_tags", release)


def test_other_parquet_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    table = {"client_id": [1, 2, 1], "tokens": ["a b", "a b", "a b"], "tags": ["x", "x", "x"]}
    parquet.write_table(pa.table({"client_id": [1]}), file)
    with pytest.raises(ScenarioError, match=rf"{file}: not a table of client_id, tokens, tags"):
        load("stackoverflow_tags", tmp_path)
    parquet.write_table(pa.table(table | {"tags": [1, 2, 3]}), file)
    with pytest.raises(ScenarioError, match=rf"{file}: tokens, tags and title must be text"):
        load("stackoverflow_tags", tmp_path)
    parquet.write_table(pa.table(table), file)
    with pytest.raises(ScenarioError, match=rf"{file}: the rows of client 1 must follow one another"):
        load("stackoverflow_tags", tmp_path)


@pytest.mark.parametrize("name", ["stackoverflow_tags", "stackoverflow_nwp"])
def test_too_few_sentences_are_refused(tmp_path: Path, name: str) -> None:
    for users in ({"1": sentences(9)}, {}):
        write_parquet(tmp_path / "a.parquet", users)
        with pytest.raises(ScenarioError) as caught:
            load(name, tmp_path)
        assert str(caught.value) == (
            f"{tmp_path}: its files hold no sentences to train on, or none to test on"
        )


# the tasks


def sizes(task: Task) -> list[int]:
    return [sum(parameter.numel() for parameter in part.parameters()) for part in initial_model(task, 0)]


def test_the_models_have_the_baselines_sizes(tmp_path: Path) -> None:
    assert sizes(stackoverflow.tags(tmp_path)) == [1_280_256, 64_500]
    assert sizes(stackoverflow.next_word(tmp_path)) == [3_082_848, 970_194]


def test_tags_are_learned(release: Path) -> None:
    task = stackoverflow.tags(release)
    found = losses(task, task.load(), steps=20, lr=0.3)
    assert found[-1] < found[0] * 0.7


@pytest.mark.parametrize(
    ("name", "like"), [("stackoverflow_tags", "debtags"), ("stackoverflow_nwp", "shakespeare")]
)
def test_the_tasks_are_learned_over_the_wire(release: Path, tmp_path: Path, name: str, like: str) -> None:
    changes = ["training.rounds=2", "training.cohort=2", "training.evaluate_every=2", "fleet.0.count=2"]
    changes += [f"task.name={name}", f"task.path={release}", "task.batch_size=4"]
    summary = simulate(load_scenario(like, changes), tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected"] == 0
    assert summary["metric"]["final"] is not None
