"""A run folder on a disk that has no room for a while."""

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import RunError
from server_node.record import RunFolder
from server_node.vocabulary.ledger import Ledger
from tests.helpers import small_scenario
from tests.training.test_resume import REPORT


def folder_at(path: Path) -> RunFolder:
    return RunFolder(path, small_scenario(path), mode="live", metric="accuracy", ledger=Ledger())


def write_table(has_room: Callable[[], bool]) -> Callable[..., None]:
    really = pq.write_table

    def write(*arguments: object) -> None:
        if not has_room():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        really(*arguments)

    return write


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(has_room=st.lists(st.booleans(), min_size=1, max_size=8))
def test_rounds_on_a_full_disk_are_written_when_there_is_room_again(
    has_room: list[bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.clear()
    record, rooms = folder_at(tmp_path), iter([*has_room, True])
    with monkeypatch.context() as patched:
        patched.setattr(pq, "write_table", write_table(lambda: next(rooms)))
        for number in range(len(has_room)):
            record.round(replace(REPORT, round=number + 1, metric=0.5))
        record.finish("complete", None)
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [row["round"] for row in rows] == list(range(1, len(has_room) + 1))
    times_it_got_full = sum(
        not now and before for before, now in zip([True, *has_room], has_room, strict=False)
    )
    assert len(caplog.records) == times_it_got_full


def test_a_disk_that_is_full_at_the_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = folder_at(tmp_path)
    monkeypatch.setattr(pq, "write_table", write_table(lambda: False))
    record.round(replace(REPORT, metric=0.5))
    with pytest.raises(RunError, match="No space left on device; make room"):
        record.finish("complete", None)


def test_a_full_disk_leaves_the_scenario_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_at(tmp_path)
    before = (tmp_path / "scenario.yaml").read_text()
    really = Path.write_text

    def full(path: Path, content: str, **options: str) -> int:
        if path.suffix == ".part" or path.name == "scenario.yaml":
            really(path, "")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return really(path, content, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(RunError, match="make room"):
        folder_at(tmp_path)
    assert (tmp_path / "scenario.yaml").read_text() == before
