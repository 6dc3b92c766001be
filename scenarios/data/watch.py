"""Reads the smartwatch series inside the package seglearn as arrays.

The file is a pickle inside an npy file. Unpickling could run code, so nothing is unpickled. `pickletools`
lists a pickle's instructions without carrying them out. The numbers are in its strings, because protocol 2
writes bytes as text in latin-1.
"""

import struct
from pathlib import Path
from pickletools import genops

import numpy as np

from scenarios.data.cache import Arrays
from scenarios.errors import ScenarioError

AXES = 6
CLASSES = 7
SHORTEST_BLOCK = 64
"""In bytes. Longer strings are numbers; shorter ones are words (keys, labels, dtypes)."""


def convert(file: Path) -> Arrays:
    """Read watch_dataset.npy.

    Returns:
        steps: float32, shape (time steps of all series, 6): acceleration in g and turning rate in rad/s.
        lengths: int32, shape (series,): each one's time steps, at 50 Hz.
        labels: int32, shape (series,): the exercise, 0 to 6.
        subjects: int32, shape (series,): the person's number.

    Raises:
        ScenarioError: the file is not the known one.
    """
    try:
        with file.open("rb") as opened:
            np.lib.format.read_magic(opened)
            np.lib.format.read_array_header_1_0(opened)
            words = [word for code, word, _ in genops(opened) if code.name == "BINUNICODE" and word]
        blocks = [word.encode("latin-1") for word in words if len(word) > SHORTEST_BLOCK]
        *values, labels, subjects, _side = blocks
        # each series lies axis after axis (Fortran order)
        series = [np.frombuffer(block, "<f8").reshape(AXES, -1).T for block in values]
        arrays = {
            "steps": np.concatenate(series).astype(np.float32),
            "lengths": np.array([len(one) for one in series], np.int32),
            "labels": np.frombuffer(labels, "<i8").astype(np.int32),
            "subjects": np.frombuffer(subjects, "<i8").astype(np.int32),
        }
    except (ValueError, struct.error) as error:
        raise ScenarioError(f"{file.name}: not the watch data that are known: {error}") from error
    count = len(values)
    if len(arrays["labels"]) != count or len(arrays["subjects"]) != count:
        raise ScenarioError(f"{file.name}: not the watch data that are known: {count} series")
    return arrays
