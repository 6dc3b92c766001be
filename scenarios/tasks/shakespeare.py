"""The next word in Shakespeare's plays, by speaker: stands in for StackOverflow's next-word task.

A speaker is a name in a play. 621 speakers have 200 words or more, together 755,256 words. They are cut into
sequences of 20 words and the word after each of them. Sequences do not overlap. A tenth of each speaker's
sequences is for testing, so the test is about speakers who are in training too. The model is that of
`scenarios.models.next_word`.

It does not show good accuracy, because the plays have few words. Always guessing the commonest word is right
3 times in 100; guessing the commonest successor of the word before, 9 times. It does not show the paper's
numbers either.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from scenarios.data.cache import data_folder, read_arrays
from scenarios.errors import ScenarioError
from scenarios.models.next_word import LENGTH, dataset, next_word_task
from scenarios.task import Dataset, Task
from scenarios.tasks.test_split import random_tenth

FORMS = {"words": ("U", 1), "ids": ("i", 1), "lengths": ("i", 1)}


def task(path: Path | None) -> Task:
    """Make the task; the folder is where `fedlite data fetch` puts the data unless one is given."""
    return next_word_task("shakespeare", partial(load, path or data_folder("shakespeare")))


def load(folder: Path) -> Dataset:
    """Read the plays and cut them into sequences; the speakers are the owners.

    Raises:
        ScenarioError: the data are not there, or are others.
    """
    file = folder / "plays.npz"
    arrays = read_arrays(file, "shakespeare", FORMS)
    words, ids, lengths = (arrays[name] for name in FORMS)
    if lengths.sum() != len(ids) or not 0 <= ids.min(initial=0) <= ids.max(initial=0) < len(words):
        raise ScenarioError(f"{file}: {len(ids)} words of {len(words)} types do not fit its speakers")
    speakers = [_sequences(said) for said in np.split(ids, np.cumsum(lengths)[:-1])]
    owners = np.repeat(np.arange(len(speakers)), [len(one) for one in speakers])
    return dataset(np.concatenate(speakers), owners, random_tenth(owners, "shakespeare"), len(words))


def _sequences(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Cut a speaker's words into rows of 21, which share none; the last is filled up with -1."""
    rows = np.full((-(-len(ids) // (LENGTH + 1)), LENGTH + 1), -1)
    rows.reshape(-1)[: len(ids)] = ids
    return rows
