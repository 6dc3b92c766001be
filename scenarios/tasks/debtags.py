"""Tags of Debian packages from their descriptions, by maintainer; for StackOverflow's tag prediction.

A sample is a package: which of the 5,000 commonest words its description has (at most 200), and which of
the 400 commonest tags, such as use::editing, people gave it. role::* and devel::library are left out: they
are common and easy to guess. The clients are the maintainers with ten packages or more, about 220, of very
unequal size and mixture. A tenth of the source packages is for testing: packages of one source share text and
tags, so a division of packages would leak.

The model is the smallest that has a cut: words -> 128 ReLU units | -> tags. Head 640,256 parameters, tail
51,600; 128 values at the cut. The federated baseline for StackOverflow's tags is a logistic regression, which
has no place to cut; FedLite's hidden layer is not known to us.

What it cannot show: the paper's numbers, or last year's, for the archive's index changes with every point
release (its date and counts are told when it is fetched). Most packages have no tags, and those that do may
lack some: a wrong guess may be right.
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

VOCABULARY = 5_000
TAGS = 400
WIDTH = 128
MOST_WORDS = 200
GUESSES = 5
TEST_SHARE = 10
MIN_ROWS = 10
RARE = -5.0
"""What the tail's biases begin with: a tag is on one package in 150."""
NONE = 0
"""Fills a row of word numbers, which begin at 1."""
COLUMNS = ("word_ids", "word_counts", "tag_ids", "tag_counts", "maintainers", "sources")
Rows = npt.NDArray[np.int64]


def task(path: Path | None) -> Task:
    """Make the task; the folder is where `fedlite data fetch` puts the data unless one is given."""
    return Task(
        name="debtags",
        metric="recall@5",
        classes=2,
        target_shape=(TAGS,),
        cut_shape=(WIDTH,),
        head=Head,
        tail=tail,
        loss=loss,
        score=score,
        load=partial(load, path or data_folder("debtags")),
    )


class Head(nn.Module):
    """The clients' part: numbers of a description's words, shape (n, most words), -> (n, 128).

    It is a dense layer on a bag of words, computed as the sum of the rows of those words that there are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY + 1, WIDTH, mode="sum", padding_idx=NONE)
        nn.init.normal_(self.words.weight, std=0.1)
        self.bias = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, words: Tensor) -> Tensor:
        """Add up and rectify."""
        z: Tensor = self.words(words) + self.bias
        return z.relu()


def tail() -> nn.Module:
    """Make the server's part: (n, 128) -> (n, 400)."""
    layer = nn.Linear(WIDTH, TAGS)
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


def load(folder: Path) -> Dataset:
    """Read the packages; the maintainers are the owners.

    Raises:
        ScenarioError: the data are not there, or are others.
    """
    file = folder / "packages.npz"
    arrays = read_arrays(file, "debtags", dict.fromkeys(COLUMNS, ("i", 1)))
    words, word_counts, tags, tag_counts, maintainers, sources = (arrays[name] for name in COLUMNS)
    if not len(word_counts) == len(tag_counts) == len(maintainers) == len(sources) or (
        (word_counts.sum(), tag_counts.sum()) != (len(words), len(tags))
        or min(words.min(initial=0), tags.min(initial=0)) < 0
    ):
        raise ScenarioError(f"{file}: its columns do not fit together")
    known = generator(0, "debtags", "test").permutation(np.unique(sources))
    tested = np.isin(sources, known[: len(known) // TEST_SHARE])
    bags = _numbered(words, word_counts, ~tested, VOCABULARY)
    labels = _numbered(tags, tag_counts, ~tested, TAGS)
    tagged = (labels > NONE).any(axis=1)
    large = np.bincount(maintainers, weights=tagged & ~tested)[maintainers] >= MIN_ROWS
    train, test = np.flatnonzero(tagged & ~tested & large), np.flatnonzero(tagged & tested)
    split = Split(torch.from_numpy(bags.astype(np.int32)), torch.from_numpy(_one_hot(labels)))
    return Dataset(train=split.take(train), test=split.take(test), owners=maintainers[train].astype(np.int64))


def _numbered(
    ids: npt.NDArray[Any], counts: npt.NDArray[Any], counted: npt.NDArray[np.bool_], most: int
) -> Rows:
    """Give each row its words' numbers, 1 for the commonest; words that are not among these are left out.

    Args:
        ids: of all rows, one after the other.
        counts: how many ids each row has, shape (N,).
        counted: the rows by which the commonest are chosen, shape (N,).
        most: how many words have a number.

    Returns:
        Shape (N, at most 200), each row's commonest words first, 0 where there are no more.
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
    kept = place < MOST_WORDS
    table = np.full((len(counts), min(MOST_WORDS, int(lengths.max(initial=1)))), NONE)
    table[rows[kept], place[kept]] = numbers[kept]
    return table


def _one_hot(labels: Rows) -> npt.NDArray[np.uint8]:
    """Give a row of 400 zeros and ones for each row of tags' numbers."""
    table = np.zeros((len(labels), TAGS + 1), np.uint8)
    np.put_along_axis(table, labels, 1, axis=1)
    return table[:, 1:]
