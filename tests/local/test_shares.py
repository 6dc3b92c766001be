"""Files of arrays come back as they were written; who has which place; which rows are kept for evaluation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.local import read_share, write_share
from scenarios.local.held_out import held_out
from scenarios.local.places import place_of, state_of
from scenarios.local.shares import write_shares
from scenarios.task import Split
from tests.small_task import points

FLEET = ("c0", "c1", "c2")


@given(
    dtype=st.sampled_from(["uint8", "float32", "float64", "int64", "int16", "bool"]),
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    target=st.lists(st.integers(1, 3), max_size=2),
)
def test_a_share_is_read_as_it_was_written(
    dtype: str, shape: list[int], target: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("share") / "c0"
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(np.asarray(rng.integers(0, 2, shape)).astype(dtype))
    split = Split(inputs, torch.from_numpy(rng.integers(0, 2, [shape[0], *target])))
    write_share(folder, split)
    again = read_share(folder)
    assert again.inputs.dtype == split.inputs.dtype
    assert torch.equal(again.inputs, split.inputs)
    assert torch.equal(again.targets, split.targets)


def test_several_files_follow_one_another_by_name(tmp_path: Path) -> None:
    whole = points(10, 1)
    write_share(tmp_path, whole.take(np.arange(4)))
    (tmp_path / "share.npz").rename(tmp_path / "a.npz")
    write_share(tmp_path, whole.take(np.arange(4, 10)))
    assert torch.equal(read_share(tmp_path).inputs, whole.inputs)


def test_targets_of_several_outputs_have_an_array_each(tmp_path: Path) -> None:
    targets = {"kind": torch.arange(3), "size": torch.rand(3, 2)}
    whole = Split(torch.zeros(3, 1), targets)
    write_share(tmp_path, whole)
    (tmp_path / "share.npz").rename(tmp_path / "a.npz")
    write_share(tmp_path, whole.take(np.array([1])))
    again = read_share(tmp_path)
    assert again.targets.keys() == targets.keys()
    for name, values in targets.items():
        assert torch.equal(again.targets[name], torch.cat([values, values[1:2]]))
    kept, tested = held_out(again, 0.5, seed=1)
    assert len(kept) + len(tested) == 4
    np.savez(tmp_path / "z.npz", inputs=np.zeros((1, 1), np.float32), targets=np.zeros(1))
    with pytest.raises(
        ScenarioError, match=r"z\.npz: has inputs, targets, but the files before have inputs, targets\.kind"
    ):
        read_share(tmp_path)


def test_a_folder_without_files_has_no_samples(tmp_path: Path) -> None:
    assert len(read_share(tmp_path).targets) == 0


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"inputs": np.zeros(3)}, "needs the arrays inputs and targets"),
        (
            {"inputs": np.zeros(3), "targets": np.array(["a", "b", "c"])},
            "targets must be numbers, a row for each sample",
        ),
        ({"inputs": np.array(["a"]), "targets": np.zeros(1, int)}, "inputs must be numbers"),
        ({"inputs": np.zeros(3), "targets": np.zeros(2, int)}, "3 inputs but 2 targets$"),
        (
            {"inputs": np.zeros((2, 5)), "targets": np.zeros(2, int)},
            r"shape \(5,\) and dtype float64, but .* \(8,\) and float32$",
        ),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: dict[str, Any], told: str) -> None:
    write_share(tmp_path, points(3, 1))
    np.savez(tmp_path / "z.npz", allow_pickle=False, **arrays)
    with pytest.raises(ScenarioError, match=rf"z\.npz: .*{told}"):
        read_share(tmp_path)


@given(data=st.data())
def test_a_file_that_is_cut_or_changed_is_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("share")
    write_share(folder, points(3, 1))
    file = folder / "share.npz"
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    file.write_bytes(content[: data.draw(st.integers(place, len(content)))])
    told = f"{file}: "
    try:
        read_share(folder)
    except ScenarioError as error:
        told = str(error)
    assert told.startswith(f"{file}: ")


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1/mine.csv").write_text("x")
    with pytest.raises(
        ScenarioError, match=r"c1 is there already; remove it, or name another folder with --to$"
    ):
        write_shares(tmp_path, [("c0", points(2, 1)), ("c1", points(2, 1))])
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        write_shares(tmp_path / "file", [("c0", points(2, 1))])


# Whose place is where.


def test_a_client_has_the_folder_of_its_name_and_one_alone_the_folder_itself(tmp_path: Path) -> None:
    assert place_of(tmp_path, "c1", alone=True, fleet=FLEET) == tmp_path
    file = tmp_path / "rows.csv"
    file.write_text("")
    assert place_of(file, "c1", alone=True, fleet=FLEET) == file
    (tmp_path / "c1").mkdir()
    for alone in (True, False):
        assert place_of(tmp_path, "c1", alone=alone, fleet=FLEET) == tmp_path / "c1"


@pytest.mark.parametrize(
    ("folders", "alone", "told"),
    [
        ([], False, "no folder c2 in {}, which has no folder: with several clients' data each needs"),
        (["c0", "x"], False, "no folder c2 in {}, which has c0, x: with several"),
        (["c0"], True, "no folder c2 in {}, which has c0: with several"),  # not the data of all others
        (list("abcdefg"), False, "no folder c2 in {}, which has a, b, c, d, e, ...: with several"),
    ],
)
def test_who_has_no_place_is_told_what_was_expected(
    tmp_path: Path, folders: list[str], told: str, *, alone: bool
) -> None:
    for name in folders:
        (tmp_path / name).mkdir()
    with pytest.raises(ScenarioError) as caught:
        place_of(tmp_path, "c2", alone=alone, fleet=FLEET)
    assert str(caught.value).startswith("task.data: " + told.format(tmp_path))


def test_a_change_of_any_file_changes_the_state(tmp_path: Path) -> None:
    seen = [state_of(tmp_path)]
    (tmp_path / "cat").mkdir()
    for content in ("a", "ab"):
        (tmp_path / "cat/x.png").write_text(content)
        seen.append(state_of(tmp_path))
        assert state_of(tmp_path) == seen[-1]
    (tmp_path / "cat/x.png").rename(tmp_path / "cat/y.png")
    seen.append(state_of(tmp_path))
    seen.append(state_of(tmp_path / "gone"))
    assert len(set(seen)) == 5 - 1  # what is gone is as empty as a folder without files


# What is kept for evaluation.


@given(count=st.integers(0, 40), share=st.floats(0, 0.99), seed=st.integers(0, 5), data=st.data())
def test_a_row_stays_on_its_side_when_data_grow_or_change_places(
    count: int, share: float, seed: int, data: st.DataObject
) -> None:
    whole = points(40, 1)
    order = np.array(data.draw(st.permutations(range(40)))[:count], np.int64)
    train, test = held_out(whole.take(order), share, seed)
    assert len(train.targets) + len(test.targets) == count
    assert count == 0 or len(train.targets)
    trained_on = held_out(whole, share, seed)[0].inputs.tolist()
    if len(train.targets) > 1 and len(trained_on) > 1:  # of rows that are all for testing, one is trained on
        assert all(row in trained_on for row in train.inputs.tolist())
        assert not any(row in trained_on for row in test.inputs.tolist())


def test_about_the_share_is_kept_another_for_another_seed() -> None:
    whole = points(2000, 1)
    first, second = (held_out(whole, 0.2, seed)[1] for seed in (1, 2))
    assert len(first.targets) == pytest.approx(400, abs=60)
    assert not torch.equal(first.inputs, second.inputs)


def test_without_a_share_the_data_are_as_they_were() -> None:
    whole = points(5, 1)
    train, test = held_out(whole, 0.0, 1)
    assert train is whole
    assert len(test.targets) == 0
