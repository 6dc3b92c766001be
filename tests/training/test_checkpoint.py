"""What is loaded from a disk is what was written, or nothing; and how often it is worth to write."""

import errno
import os
from concurrent.futures import wait
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import RunError
from broker.files import atomic_write
from server_node import checkpoint
from server_node.checkpoint import FILE, PREVIOUS, DamagedError, Progress
from server_node.saver import SHARE, Saver, Snapshot
from server_node.vocabulary.ledger import Ledger

TENSORS = {"head.weight": torch.arange(6.0).reshape(2, 3), "tail.bias": torch.tensor([1.5, -2.5])}


def progress(rounds: int) -> Progress:
    return Progress(
        {"seed": 3}, [{"round": number + 1, "metric": None} for number in range(rounds)], Ledger()
    )


def rounds_of(found: object) -> int:
    assert isinstance(found, tuple)
    return len(found[0].rows)


@cache
def written() -> bytes:
    folder = Path(mkdtemp())
    checkpoint.save(folder, progress(2), TENSORS)
    return (folder / FILE).read_bytes()


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, progress(2), TENSORS)
    loaded, tensors = checkpoint.load(tmp_path / FILE, Progress)
    assert loaded == progress(2)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def refused(damaged: bytes) -> bool:
    file = Path(mkdtemp()) / FILE
    file.write_bytes(damaged)
    try:
        checkpoint.load(file, Progress)
    except DamagedError:
        return True
    return False


@given(st.data())
def test_a_flipped_bit_anywhere_is_noticed(data: st.DataObject) -> None:
    whole = bytearray(written())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    assert refused(bytes(whole))


@given(st.integers(0, len(written()) - 1))
def test_a_file_that_ends_too_early_is_noticed(length: int) -> None:
    assert refused(written()[:length])


def test_what_was_added_to_a_file_is_noticed() -> None:
    assert refused(written() + b"\0")
    assert not refused(written())


def test_the_one_before_is_used_when_the_newest_is_damaged_and_it_is_said(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, progress(1), TENSORS)
    checkpoint.save(tmp_path, progress(2), TENSORS)
    assert rounds_of(checkpoint.newest(tmp_path, Progress)) == 2
    (tmp_path / FILE).write_bytes(written()[:-1])
    found = checkpoint.newest(tmp_path, Progress)
    assert found is not None
    assert rounds_of(found) == 1
    assert found[2] == [f"{tmp_path / FILE} is damaged: its checksum is wrong"]


def test_a_kill_between_the_two_renames_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, progress(1), TENSORS)
    (tmp_path / FILE).rename(tmp_path / PREVIOUS)
    assert rounds_of(checkpoint.newest(tmp_path, Progress)) == 1


def test_without_any_good_one_a_person_decides(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path, Progress) is None
    (tmp_path / FILE).write_bytes(b"half of it")
    with pytest.raises(RunError, match=r"damaged: it is no whole checkpoint\nno good .*; --fresh begins"):
        checkpoint.newest(tmp_path, Progress)


def test_one_that_could_not_be_written_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, progress(1), TENSORS)
    checkpoint.save(tmp_path, progress(2), TENSORS)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left on device; make room"):
        checkpoint.save(tmp_path, progress(3), TENSORS)
    assert rounds_of(checkpoint.newest(tmp_path, Progress)) == 2
    assert {file.name for file in tmp_path.iterdir()} == {FILE, PREVIOUS}


def test_the_disk_has_a_file_before_its_name_changes_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        did.append(f"flush {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def note_replace(old: Path, new: Path) -> None:
        did.append(f"{old.name} -> {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    file = tmp_path / "f"
    file.write_text("old")
    with atomic_write(file, durable=True, previous=tmp_path / "before") as part:
        part.write_text("new")
    assert did == ["flush .f.part", "f -> before", ".f.part -> f", f"flush {tmp_path.name}"]
    assert (file.read_text(), (tmp_path / "before").read_text()) == ("new", "old")


class Disk:
    """Writes take as many seconds as `costs` says; `now` is the clock."""

    def __init__(self, *costs: float | RunError) -> None:
        self.now = 0.0
        self.costs = list(costs)
        self.has: list[int] = []

    def write(self, snapshot: Snapshot) -> None:
        cost = self.costs.pop(0)
        if isinstance(cost, RunError):
            raise cost
        self.now += cost
        self.has.append(len(snapshot.progress.rows))


def rounds(
    saver: Saver, disk: Disk, numbers: range, *, seconds: float, evaluated: tuple[int, ...] = ()
) -> None:
    for number in numbers:
        disk.now += seconds
        wait([saver.offer(Snapshot(progress(number), TENSORS), must=number in evaluated)])


def test_writing_takes_a_twentieth_of_the_time() -> None:
    disk = Disk(*[1.0] * 9)
    with Saver(disk.write, lambda: disk.now) as saver:
        rounds(saver, disk, range(1, 100), seconds=1.0)
    assert SHARE == 20
    assert disk.has == [1, 21, 41, 61, 81]


def test_every_round_is_written_where_that_costs_little() -> None:
    disk = Disk(*[0.01] * 9)
    with Saver(disk.write, lambda: disk.now) as saver:
        rounds(saver, disk, range(1, 6), seconds=1.0)
    assert disk.has == [1, 2, 3, 4, 5]


def test_an_evaluated_round_is_always_written_and_the_last_one_when_asked() -> None:
    disk = Disk(*[1.0] * 9)
    with Saver(disk.write, lambda: disk.now) as saver:
        rounds(saver, disk, range(1, 9), seconds=1.0, evaluated=(5,))
        wait([saver.write_last(), saver.write_last()])
    assert disk.has == [1, 5, 8]


def test_a_disk_that_fails_is_told_once_and_forgiven_when_it_works_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    disk = Disk(RunError("cannot write a; make room"), RunError("cannot write b; make room"), 0.0, 0.0)
    with Saver(disk.write, lambda: disk.now) as saver:
        errors = list[str | None]()
        for both in (range(1, 3), range(3, 5)):
            rounds(saver, disk, both, seconds=1.0)
            errors.append(saver.error)
    assert errors == ["cannot write b; make room", None]
    assert [record.message for record in caplog.records] == [
        "the run goes on without a checkpoint: cannot write a; make room"
    ]
    assert disk.has == [3, 4]
