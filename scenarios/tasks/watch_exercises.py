"""Seven shoulder exercises, told apart by a smartwatch, by person (Burns et al. 2018, arXiv 1802.01489).

There are 140 series, 14 of each of ten people: acceleration (g) and turning rate (rad/s) in three axes each,
at 50 Hz. They are cut into windows of 2 s that overlap by half. The task stands in for no task of the paper.
It is a typical task for edge devices: a sensor, its owner, and few data.

Two people are kept for testing. So the metric says how well the model works for a person who was not in
training. It depends on who these two people are: large differences between settings mean something, small
ones do not. A series has one exercise and no pauses, unlike what a watch measures all day.

The model has the shape of the FEMNIST CNN in one dimension, cut at the same place. Head 11,296 parameters,
tail 181,255; 22 moments x 64 channels = 1,408 values at the cut.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scenarios.data.cache import data_folder, read_arrays
from scenarios.errors import ScenarioError
from scenarios.models.femnist_cnn import is_right
from scenarios.task import Dataset, Split, Task

CLASSES = 7
AXES = 6
WINDOW = 100
STRIDE = 50
CUT_SHAPE = (22, 64)
TEST_SUBJECTS = (5, 10)
FORMS = {"steps": ("f", 2), "lengths": ("i", 1), "labels": ("i", 1), "subjects": ("i", 1)}


def task(path: Path | None) -> Task:
    """Make the task; the folder is where `fedlite data fetch` puts the data unless one is given."""
    folder = path or data_folder("watch_exercises")
    return Task(
        name="watch_exercises",
        metric="accuracy",
        classes=CLASSES,
        target_shape=(),
        cut_shape=CUT_SHAPE,
        head=head,
        tail=tail,
        loss=nn.CrossEntropyLoss(reduction="none"),
        score=is_right,
        load=partial(load, folder),
    )


class ChannelsLast(nn.Module):
    """Turns (n, channels, moments) into (n, moments * channels)."""

    def forward(self, maps: Tensor) -> Tensor:
        """Flatten, with the channels of a moment side by side."""
        return maps.transpose(1, 2).flatten(1)


def head() -> nn.Module:
    """Make the clients' part: (n, 6, 100) -> (n, 1408)."""
    return nn.Sequential(
        nn.Conv1d(AXES, 32, 5),
        nn.ReLU(),
        nn.MaxPool1d(2),
        nn.Conv1d(32, 64, 5),
        nn.ReLU(),
        nn.MaxPool1d(2),
        ChannelsLast(),
    )


def tail() -> nn.Module:
    """Make the server's part: (n, 1408) -> (n, 7)."""
    return nn.Sequential(
        nn.Dropout(0.25), nn.Linear(1408, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES)
    )


def load(folder: Path) -> Dataset:
    """Read the series and cut them into windows; the people are the owners.

    Raises:
        ScenarioError: the data are not there, or are others.
    """
    file = folder / "watch.npz"
    arrays = read_arrays(file, "watch_exercises", FORMS)
    steps, lengths, labels, subjects = (arrays[name] for name in FORMS)
    if not len(lengths) == len(labels) == len(subjects) or steps.shape != (lengths.sum(), AXES):
        raise ScenarioError(f"{file}: {len(lengths)} series do not fit steps of shape {steps.shape}")
    if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < CLASSES:
        raise ScenarioError(f"{file}: labels must be 0 to {CLASSES - 1}")
    windows = [_windows(series) for series in np.split(steps, np.cumsum(lengths)[:-1])]
    counts = [len(one) for one in windows]
    owners = np.repeat(subjects, counts).astype(np.int64)
    split = Split(
        torch.from_numpy(np.concatenate(windows)),
        torch.from_numpy(np.repeat(labels, counts).astype(np.int64)),
    )
    tested = np.isin(owners, TEST_SUBJECTS)
    return Dataset(
        train=split.take(np.flatnonzero(~tested)),
        test=split.take(np.flatnonzero(tested)),
        owners=owners[~tested],
    )


def _windows(series: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Cut a series, shape (time steps, 6), into windows, shape (windows, 6, 100)."""
    if len(series) < WINDOW:
        return np.empty((0, AXES, WINDOW), np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, WINDOW, axis=0)[::STRIDE]
    return np.ascontiguousarray(windows, np.float32)
