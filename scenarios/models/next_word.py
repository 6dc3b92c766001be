"""Predicts the word after each of 20 words: the model, and a data set made of numbered words.

The vocabulary has the 10,000 words that are commonest in training. Loss and accuracy of a sequence are means
over those of its targets that are in the vocabulary. Padding and unknown words do not count.

The model is the federated baseline for StackOverflow (Reddi et al. 2021, arXiv 2003.00295): embedding 96,
LSTM 670, dense 96, dense over the vocabulary. Its last layer is the tail: 20 x 96 = 1,920 values at the cut.
Head 3,082,848 parameters, tail 970,194. How FedLite's authors cut their model is not known to us. The
baseline also has marks for the beginning and the end of a sentence; this model has none.

Two things hold for all data. Embedding and LSTM are three quarters of the model, so the head's flows have
more bytes than the activations that FedLite compresses. And nothing is private: the targets, which are sent
to the server, are the text.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Task

VOCABULARY = 10_000
PADDING, UNKNOWN = 0, 1
SPECIAL = 2
"""Padding and unknown words come before the vocabulary, and do not count as targets."""
CLASSES = VOCABULARY + SPECIAL
LENGTH = 20
WIDTH = 96


def next_word_task(name: str, load: Callable[[], Dataset]) -> Task:
    """Make a task of next words; `load` returns what `dataset` makes."""
    return Task(
        name=name,
        metric="accuracy",
        classes=CLASSES,
        target_shape=(LENGTH,),
        cut_shape=(LENGTH, WIDTH),
        head=Head,
        tail=tail,
        loss=loss,
        score=score,
        load=load,
    )


class Head(nn.Module):
    """The clients' part: word numbers, shape (n, 20), -> (n, 1920), the 96 values of a word together."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH, padding_idx=PADDING)
        self.lstm = nn.LSTM(WIDTH, 670, batch_first=True)
        self.dense = nn.Linear(670, WIDTH)

    def forward(self, words: Tensor) -> Tensor:
        """Give for each word the state after the words up to it."""
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
    """Give the share of right guesses among the targets of each sequence that count, shape (n,)."""
    right = (outputs.argmax(dim=2) == targets) & (targets >= SPECIAL)
    return right.sum(dim=1) / _count(targets)


def _count(targets: Tensor) -> Tensor:
    return (targets >= SPECIAL).sum(dim=1).clamp(min=1)


def dataset(
    sequences: npt.NDArray[np.int64],
    owners: npt.NDArray[np.int64],
    tested: npt.NDArray[np.bool_],
    types: int,
) -> Dataset:
    """Choose the vocabulary, and leave out sequences in which no target counts.

    Args:
        sequences: ids of words below `types`, shape (N, 21), filled up with -1.
        owners: shape (N,).
        tested: the rows for testing, shape (N,).
        types: how many words have an id.
    """
    numbers = _vocabulary(sequences[~tested], types)[sequences]
    counts = (numbers[:, 1:] >= SPECIAL).any(axis=1)
    train, test = np.flatnonzero(~tested & counts), np.flatnonzero(tested & counts)
    split = Split(
        torch.from_numpy(numbers[:, :-1].astype(np.int32)), torch.from_numpy(numbers[:, 1:].astype(np.int64))
    )
    return Dataset(train=split.take(train), test=split.take(test), owners=owners[train])


def _vocabulary(sequences: npt.NDArray[np.int64], types: int) -> npt.NDArray[np.int64]:
    """Give the number of each type in the task, shape (types + 1,); the last is for padding, whose id is -1.

    The commonest words come first. Of equally common words the one with the lowest id comes first.
    """
    counts = np.bincount(sequences[sequences >= 0], minlength=types)
    commonest = np.argsort(-counts, kind="stable")[:VOCABULARY]
    numbers = np.full(types + 1, UNKNOWN)
    numbers[commonest] = SPECIAL + np.arange(len(commonest))
    numbers[:types][counts == 0] = UNKNOWN
    numbers[-1] = PADDING
    return numbers
