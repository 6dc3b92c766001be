"""The next character in Shakespeare's plays, by speaker: LEAF's task (Caldas et al. 2018, arXiv 1812.01097).

The data are files of yours, in one of two forms (`scenarios.data.leaf`): LEAF's JSON files, or the parquet
files of flwrlabs/shakespeare. A row is 80 characters and the character after them. The next row begins one
character later. Without test files the last tenth of each speaker's rows is for testing. The 80 rows before
it share characters with it and are left out. LEAF divides its JSON files in a similar way. Early versions of
LEAF divided them at random: then the test rows overlap the rows for training.

The model is LEAF's: embedding 8, two LSTMs of 256, and a dense layer on the last state, which is the tail.
Head 799,360 parameters, tail 20,560; 256 values at the cut.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from scenarios.data.cache import needed_folder
from scenarios.data.leaf import LeafSchema, Mask, load_leaf
from scenarios.models.femnist_cnn import is_right
from scenarios.task import Dataset, Task
from scenarios.tasks.test_split import TEST_SHARE, rows_of_owners

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's 80 characters. Any other character counts as a question mark."""
LENGTH = 80
WIDTH = 256


def task(path: Path | None) -> Task:
    """Make the task.

    Raises:
        ScenarioError: no folder is given.
    """
    folder = needed_folder(path, "leaf_shakespeare", FORM.files)
    return Task(
        name="leaf_shakespeare",
        metric="accuracy",
        classes=len(LETTERS),
        target_shape=(),
        cut_shape=(WIDTH,),
        head=Head,
        tail=lambda: nn.Linear(WIDTH, len(LETTERS)),
        loss=nn.CrossEntropyLoss(reduction="none"),
        score=is_right,
        load=partial(load, folder),
    )


class Head(nn.Module):
    """The clients' part: numbers of characters, shape (n, 80), -> (n, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(LETTERS), 8)
        self.lstm = nn.LSTM(8, WIDTH, num_layers=2, batch_first=True)

    def forward(self, characters: Tensor) -> Tensor:
        """Read all characters, and give the last state."""
        states: Tensor = self.lstm(self.embedding(characters.int()))[0]
        return states[:, -1]


def load(folder: Path) -> Dataset:
    """Read the rows; the speakers are the owners.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    return load_leaf(folder, FORM)


NUMBERS = np.full(128, LETTERS.index("?"), np.int8)
NUMBERS[np.frombuffer(LETTERS.encode(), np.uint8)] = np.arange(len(LETTERS))


def _rows(
    texts: Sequence[Any], followers: Sequence[Any]
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int64]]:
    """Number characters, as int8: torch's embeddings refuse uint8, and larger types take more memory."""
    inputs, targets = _numbers(texts, LENGTH), _numbers(followers, 1)
    return inputs, targets[:, 0].astype(np.int64)


def _numbers(texts: Sequence[Any], length: int) -> npt.NDArray[np.int8]:
    """Number the characters of texts of one length, shape (n, length)."""
    if any(not isinstance(text, str) or len(text) != length for text in texts):
        raise ValueError(f"x must be texts of {LENGTH} characters, and y of 1")
    characters = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    return NUMBERS[characters].reshape(-1, length)


def _hold_out(speakers: npt.NDArray[np.int64]) -> tuple[Mask, Mask]:
    kept, tested = np.ones(len(speakers), np.bool_), np.zeros(len(speakers), np.bool_)
    for rows in rows_of_owners(speakers):
        first = len(rows) - len(rows) // TEST_SHARE
        tested[rows[first:]] = True
        if first < len(rows):
            kept[rows[max(first - LENGTH, 0) :]] = False
    return kept, tested


FORM = LeafSchema(
    name="Shakespeare",
    published="flwrlabs/shakespeare",
    columns=("x", "character_id", "y"),
    of_json=_rows,
    of_parquet=_rows,
    hold_out=_hold_out,
)
