"""watch_exercises: its conversion and its task."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scenarios.data import watch
from scenarios.data.cache import write_arrays
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.task import Dataset
from scenarios.tasks import watch_exercises
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.small_data import Hostile, losses, pickled_npy, watch_data, watch_dict


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


@pytest.mark.parametrize("name", ["watch-exercises", "watch-all-flows"])
def test_watch_exercises_is_learned_over_the_wire(tmp_path: Path, watches: Path, name: str) -> None:
    small = ["training.rounds=2", "training.cohort=2", "training.evaluate_every=2", "fleet.0.count=4"]
    summary = simulate(load_scenario(name, [*small, f"task.path={watches}"]), tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected"] == 0
    assert summary["metric"]["final"] is not None
