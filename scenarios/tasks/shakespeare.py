"""The next word in Shakespeare's plays, by speaker: stands in for StackOverflow's next-word task.

621 speakers with 200 words or more (a speaker is a name in a play) have 755,256 words, cut into sequences of
20 words and the one after each. Sequences do not overlap, and a tenth of each speaker's is for testing: so
the test is about speakers who are known. The vocabulary has the 10,000 words that are commonest in training.

Loss and accuracy of a sequence are means over its words that count: those in the vocabulary, not padding.

The model is the federated baseline for StackOverflow (Reddi et al. 2021, arXiv 2003.00295): embedding 96,
LSTM 670, dense 96, dense over the vocabulary. Its last layer is the tail: 20 x 96 = 1,920 values at the cut.
Head 3,082,848 parameters, tail 970,194. How FedLite's authors cut theirs is not known to us.

What it cannot show: good accuracy, for the plays are few words (always guessing the commonest one is right 3
times in 100, the commonest successor of the word before 9 times); the paper's numbers; a small head, since
embedding and LSTM are three quarters of the model, so that the head's flows outweigh what FedLite compresses.
Nor privacy: the targets, which go to the server, are the text.
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
from scenarios.seeds import generator
from scenarios.task import Dataset, Split, Task

VOCABULARY = 10_000
PADDING, UNKNOWN = 0, 1
SPECIAL = 2
"""Padding and unknown words come before the vocabulary, and do not count as targets."""
CLASSES = VOCABULARY + SPECIAL
LENGTH = 20
WIDTH = 96
TEST_SHARE = 10
FORMS = {"words": ("U", 1), "ids": ("i", 1), "lengths": ("i", 1)}


def task(path: Path | None) -> Task:
    """Make the task; the folder is where `fedlite data fetch` puts the data unless one is given."""
    return Task(
        name="shakespeare",
        metric="accuracy",
        classes=CLASSES,
        target_shape=(LENGTH,),
        cut_shape=(LENGTH, WIDTH),
        head=Head,
        tail=tail,
        loss=loss,
        score=score,
        load=partial(load, path or data_folder("shakespeare")),
    )


class Head(nn.Module):
    """The clients' part: word numbers, shape (n, 20), -> (n, 1920), the 96 values of a word together."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH, padding_idx=PADDING)
        self.lstm = nn.LSTM(WIDTH, 670, batch_first=True)
        self.dense = nn.Linear(670, WIDTH)

    def forward(self, words: Tensor) -> Tensor:
        """Read the words up to each one."""
        states: Tensor = self.lstm(self.embedding(words))[0]
        z: Tensor = self.dense(states)
        return z.flatten(1)


def tail() -> nn.Module:
    """Make the server's part: (n, 1920) -> (n, 20, 10002)."""
    return nn.Sequential(nn.Unflatten(1, (LENGTH, WIDTH)), nn.Linear(WIDTH, CLASSES))


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the mean cross-entropy over each sequence's words that count, shape (n,)."""
    counted = targets.masked_fill(targets < SPECIAL, -100)
    losses = nn.functional.cross_entropy(
        outputs.flatten(0, 1), counted.flatten(), reduction="none", ignore_index=-100
    )
    return losses.view_as(targets).sum(dim=1) / _count(targets)


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the share of each sequence's words that count which were guessed, shape (n,)."""
    right = (outputs.argmax(dim=2) == targets) & (targets >= SPECIAL)
    return right.sum(dim=1) / _count(targets)


def _count(targets: Tensor) -> Tensor:
    return (targets >= SPECIAL).sum(dim=1).clamp(min=1)


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
    sequences = np.concatenate(speakers)
    owners = np.repeat(np.arange(len(speakers)), [len(one) for one in speakers])
    tested = _held_out(owners)
    numbers = _vocabulary(sequences[~tested], len(words))[sequences]
    counts = (numbers[:, 1:] >= SPECIAL).any(axis=1)
    train, test = np.flatnonzero(~tested & counts), np.flatnonzero(tested & counts)
    split = Split(
        torch.from_numpy(numbers[:, :-1].astype(np.int32)), torch.from_numpy(numbers[:, 1:].astype(np.int64))
    )
    return Dataset(train=split.take(train), test=split.take(test), owners=owners[train])


def _sequences(ids: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Cut a speaker's words into rows of 21, which share none; the last is filled up with -1."""
    rows = np.full((-(-len(ids) // (LENGTH + 1)), LENGTH + 1), -1)
    rows.reshape(-1)[: len(ids)] = ids
    return rows


def _held_out(owners: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Choose a tenth of each speaker's sequences, always the same ones; a mask of shape (N,)."""
    rng = generator(0, "shakespeare", "test")
    mask = np.zeros(len(owners), np.bool_)
    for rows in np.split(np.arange(len(owners)), np.flatnonzero(np.diff(owners)) + 1):
        mask[rng.choice(rows, len(rows) // TEST_SHARE, replace=False)] = True
    return mask


def _vocabulary(sequences: npt.NDArray[np.int64], types: int) -> npt.NDArray[np.int64]:
    """Give the number of each type in the task, shape (types + 1,); the last is for padding, whose id is -1.

    The commonest words come first, of equally common ones the first in the alphabet.
    """
    counts = np.bincount(sequences[sequences >= 0], minlength=types)
    commonest = np.argsort(-counts, kind="stable")[:VOCABULARY]
    numbers = np.full(types + 1, UNKNOWN)
    numbers[commonest] = SPECIAL + np.arange(len(commonest))
    numbers[:types][counts == 0] = UNKNOWN
    numbers[-1] = PADDING
    return numbers
