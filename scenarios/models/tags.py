"""Predicts tags from a bag of words: the model, and rows made of numbered words.

The model is the smallest one that can be cut: words -> 128 ReLU units | -> tags. The federated baseline for
StackOverflow's tags (Reddi et al. 2021, arXiv 2003.00295) is a logistic regression, which has no layer to cut
at. The size of FedLite's hidden layer is not known to us.

A sample's score is the share of its tags that are among the five best guesses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scenarios.task import Dataset, Split, Tags, Task

WIDTH = 128
GUESSES = 5
RARE = -5.0
"""The first value of the tail's biases: about one row in 150 has a given tag, and sigmoid(-5) is 1/150."""
NONE = 0
"""Fills up a row of numbers. Real numbers begin at 1."""
Rows = npt.NDArray[np.int32]


def tags_task(name: str, *, vocabulary: int, tags: int, load: Callable[[], Dataset]) -> Task:
    """Make a task of tags; `split` gives the rows that `load` returns.

    Args:
        name: as in the scenario.
        vocabulary: how many words have a number.
        tags: how many tags there are to choose from.
        load: reads the data.
    """
    return Task(
        name=name,
        metric="recall@5",
        targets=Tags(tags),
        cut_shape=(WIDTH,),
        head=partial(Head, vocabulary),
        tail=partial(tail, tags),
        loss=loss,
        score=score,
        load=load,
    )


class Head(nn.Module):
    """The clients' part: numbers of a text's words, shape (n, most words), -> (n, 128).

    It is a dense layer on a bag of words. Only the weights of the words that occur are read and added up.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(vocabulary + 1, WIDTH, mode="sum", padding_idx=NONE)
        nn.init.normal_(self.words.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, words: Tensor) -> Tensor:
        """Add up the weights of the words, and apply ReLU."""
        z: Tensor = self.words(words) + self.bias
        return z.relu()


def tail(tags: int) -> nn.Module:
    """Make the server's part: (n, 128) -> (n, tags)."""
    layer = nn.Linear(WIDTH, tags)
    nn.init.constant_(layer.bias, RARE)
    return layer


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the binary cross-entropy of each sample, summed over tags, shape (n,)."""
    losses = nn.functional.binary_cross_entropy_with_logits(outputs, targets.float(), reduction="none")
    return losses.sum(dim=1)


def score(outputs: Tensor, targets: Tensor) -> Tensor:
    """Give the share of each sample's tags that are among the five best guesses, shape (n,)."""
    guesses = outputs.topk(GUESSES, dim=1).indices
    return targets.gather(1, guesses).sum(dim=1) / targets.sum(dim=1).clamp(min=1)


def split(bags: Rows, labels: Rows, tags: int, rows: npt.NDArray[np.int64]) -> Split:
    """Give some rows of the tables that `numbered` makes of words and of tags, as inputs and targets."""
    targets = np.zeros((len(rows), tags + 1), np.uint8)
    np.put_along_axis(targets, labels[rows], 1, axis=1)
    return Split(torch.from_numpy(bags[rows]), torch.from_numpy(targets[:, 1:]))


def numbered(
    ids: npt.NDArray[Any],
    counts: npt.NDArray[Any],
    counted: npt.NDArray[np.bool_],
    *,
    most: int,
    longest: int,
) -> Rows:
    """Number the words of each row, 1 for the commonest; words that get no number are left out.

    Args:
        ids: of the words of all rows, one row after the other; no id twice in a row.
        counts: how many ids each row has, shape (N,).
        counted: the rows in which words are counted to find the commonest, shape (N,).
        most: how many words have a number.
        longest: how many words a row can have.

    Returns:
        Shape (N, at most `longest`), each row's commonest words first, 0 where there are no more.
    """
    rows = np.repeat(np.arange(len(counts)), counts)
    frequency = np.bincount(ids[counted[rows]], minlength=ids.max(initial=0) + 1)
    commonest = np.argsort(-frequency, kind="stable")[:most]
    commonest = commonest[frequency[commonest] > 0]
    number = np.full(len(frequency), NONE)
    number[commonest] = np.arange(1, len(commonest) + 1)
    kept = number[ids] > NONE
    rows, numbers = rows[kept], number[ids][kept]
    order = np.lexsort((numbers, rows))
    rows, numbers = rows[order], numbers[order]
    lengths = np.bincount(rows, minlength=len(counts))
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    kept = place < longest
    table = np.full((len(counts), min(longest, int(lengths.max(initial=1)))), NONE, np.int32)
    table[rows[kept], place[kept]] = numbers[kept]
    return table
