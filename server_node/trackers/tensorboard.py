"""Writes event files for TensorBoard through its own record writer; TensorFlow is not needed."""

import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from tensorboard.compat.proto.event_pb2 import Event as Record
from tensorboard.compat.proto.event_pb2 import SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.summary.writer.record_writer import RecordWriter

from server_node.trackers.events import Event
from server_node.trackers.values import flat, numbers_of

FOLDER = "tensorboard"
"""In the run folder."""


class TensorBoard:
    """Writes a run's scalars and hyperparameters; a sink.

    A round is a step. The time of a step is when it came; in virtual time it is the beginning of the run
    plus the virtual seconds, so that TensorBoard's relative time is virtual.

    Args:
        folder: the run folder.
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder / FOLDER
        self._clock = clock
        self._file: BinaryIO | None = None
        self._metric = self._seconds = ""
        self._began_s = 0.0

    def __call__(self, events: Sequence[Event]) -> None:
        """Write events, and put them on the disk."""
        records = [record for event in events for record in self._records(event)]
        try:
            self._write(records)
        except OSError:
            self._leave()  # what stands after half a record is not read: go on in another file
            raise
        if events[-1]["event"] == "end":
            self._leave()

    def _write(self, records: Sequence[Record]) -> None:
        if records:
            file = self._open()
            for record in records:
                RecordWriter(file).write(record.SerializeToString())
            file.flush()

    def _leave(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()

    def _open(self) -> BinaryIO:
        """Give the event file; each process has one of its own, as TensorBoard wants it."""
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}"
            self._file = (self._folder / name).open("xb")
            first = Record(wall_time=self._clock(), file_version="brain.Event:2")
            RecordWriter(self._file).write(first.SerializeToString())
        return self._file

    def _records(self, event: Event) -> list[Record]:
        match event["event"]:
            case "begin":
                self._metric, self._seconds = event["metric"], event["seconds"]
                self._began_s = self._clock()
                settings, run = flat(event["settings"]), event["run"]
                summary = hparams_pb(settings, trial_id=run, start_time_secs=self._began_s)
                # what an earlier process wrote of rounds that are done once more is not shown
                start = SessionLog(status=SessionLog.START)
                return [
                    Record(wall_time=self._began_s, step=event["rounds_done"] + 1, session_log=start),
                    Record(wall_time=self._began_s, summary=summary),
                ]
            case "round":
                numbers = numbers_of(event, metric=self._metric, seconds=self._seconds)
                is_virtual = self._seconds == "virtual"
                at_s = self._began_s + event["elapsed_s"] if is_virtual else self._clock()
                values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
                return [Record(wall_time=at_s, step=event["round"], summary=Summary(value=values))]
            case _:
                return []
