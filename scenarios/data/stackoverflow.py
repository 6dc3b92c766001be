"""Reads sentences of StackOverflow's users from files of yours, in one of two forms.

    TensorFlow Federated    stackoverflow_train.h5 and stackoverflow_test.h5: HDF5 with examples / user /
                            tokens, title, tags, which its function stackoverflow.load_data downloads
    parquet                 *.parquet with the columns client_id, tokens, tags, and title if there is one. The
                            rows of a client follow one another. Files with "test" in their names are for
                            testing. If there are none, the last of each client's rows are.

Words in tokens and titles are separated by spaces, tags by |. A sentence of a question or an answer has the
title and the tags of its question.

TensorFlow Federated has 342,477 users with 135,818,730 sentences for training. Only the first users of a file
are read, and of each only the first sentences. HDF5 sorts users by name. The names are ids, so old accounts
come first.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from scenarios.data.tables import parquet_files, read_parquet
from scenarios.errors import ScenarioError

USERS = 1_000
SENTENCES = 500
TEST_SENTENCES = 10
"""Of each user. That makes 10,000 in all; there are not more because every evaluation goes through all."""
TEST_SHARE = 10
FILES = (
    "stackoverflow_train.h5 and stackoverflow_test.h5 of TensorFlow Federated, or parquet files with the "
    "columns client_id, tokens, tags"
)


class Sentence(NamedTuple):
    """A sentence, and the title and tags of its question, as they are stored."""

    tokens: str
    title: str
    tags: str


class Words:
    """Words of rows as ids. A word gets the next free id when it first comes, so ids are the same everywhere.

    Attributes:
        ids: of all rows, one after the other.
        counts: how many ids each row has.
        number: the id of each word.
    """

    def __init__(self) -> None:
        self.ids = array("i")
        self.counts = array("i")
        self.number: dict[str, int] = {}

    def add(self, words: Iterable[str]) -> None:
        """Add a row."""
        before = len(self.ids)
        self.ids.extend(self.number.setdefault(word, len(self.number)) for word in words)
        self.counts.append(len(self.ids) - before)


class Rows(NamedTuple):
    """Number of each row's user, shape (N,) int64, and whether it is for testing, shape (N,)."""

    users: npt.NDArray[np.int64]
    tested: npt.NDArray[np.bool_]


def read_sentences(folder: Path, take: Callable[[Sentence], None]) -> Rows:
    """Give one sentence after the other to `take`, and say whose they were.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    users, tested = array("q"), array("b")
    for number, (sentences, kept) in enumerate(_by_user(folder)):
        for sentence in sentences:
            take(sentence)
        users.extend([number] * len(sentences))
        tested.extend(place >= kept for place in range(len(sentences)))
    return Rows(np.array(users, np.int64), np.array(tested, np.bool_))


def _by_user(folder: Path) -> Iterator[tuple[list[Sentence], int]]:
    """Give each user's sentences, and how many of them, from the first on, are for training."""
    train, test = (folder / f"stackoverflow_{part}.h5" for part in ("train", "test"))
    tables, test_tables = parquet_files(folder)
    divided = True
    if train.is_file() and test.is_file():
        training, testing = _read_h5(train, SENTENCES), _read_h5(test, TEST_SENTENCES)
    elif tables:
        training, testing = _read_tables(tables, SENTENCES), _read_tables(test_tables, TEST_SENTENCES)
        divided = bool(test_tables)
    else:
        raise ScenarioError(f"{folder} must hold {FILES}", key="task.path")
    for sentences in training:
        held_out = 0 if divided else min(len(sentences) // TEST_SHARE, TEST_SENTENCES)
        yield sentences, len(sentences) - held_out
    for sentences in testing:
        yield sentences, 0


def _read_h5(file: Path, most: int) -> Iterator[list[Sentence]]:
    """Give at most `most` sentences of each of the first users."""
    try:
        import h5py  # noqa: PLC0415 - needed for this form of this data set only
    except ImportError as error:
        raise ScenarioError(f"{file.name} needs h5py: pip install h5py") from error
    try:
        with h5py.File(file, "r") as opened:
            users = opened["examples"]
            for name in islice(users, USERS):
                columns = [users[name][column].asstr(errors="replace")[:most] for column in Sentence._fields]
                yield [Sentence(*row) for row in zip(*columns, strict=True)]
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ScenarioError(f"{file}: not the StackOverflow of TensorFlow Federated: {error}") from error


def _read_tables(files: list[Path], most: int) -> Iterator[list[Sentence]]:
    """Give at most `most` sentences of each of the first clients."""
    known = set[str]()
    for client, rows in groupby(_table_rows(files), key=itemgetter(0)):
        if len(known) == USERS:
            return
        if client in known:
            raise ScenarioError(f"{next(rows)[1]}: the rows of client {client} must follow one another")
        known.add(client)
        yield [sentence for _, _, sentence in islice(rows, most)]


def _table_rows(files: list[Path]) -> Iterator[tuple[str, Path, Sentence]]:
    for file in files:
        for columns in read_parquet(file, ("client_id", "tokens", "tags"), optional=("title",)):
            for client, tokens, tags, title in zip(*columns, strict=True):
                sentence = Sentence(tokens, title, tags)
                if not all(isinstance(text, str) for text in sentence):
                    raise ScenarioError(f"{file}: tokens, tags and title must be text")
                yield str(client), file, sentence
