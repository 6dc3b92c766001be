"""StackOverflow's two tasks of federated learning, by user (Reddi et al. 2021, arXiv 2003.00295).

The data are files of yours, see `scenarios.data.stackoverflow`. Read are 500 sentences of each of the first
1,000 users, and 10 for testing. Vocabulary and tags are the commonest ones of these sentences, not of all.

stackoverflow_tags: which of the 500 commonest tags has a sentence's question? Inputs are which of the 10,000
commonest words the sentence and its question's title have (at most 64). Head 1,280,256 parameters, tail
64,500. The baseline is a logistic regression on the share of each word. This model has a hidden layer, so
that it can be cut, and sees only whether a word is there. Sentences without any of the tags are left out.

stackoverflow_nwp: the next word, for the first 20 words of a sentence. The baseline also has marks for the
beginning and the end of a sentence. Here there are none.
"""

from functools import partial
from pathlib import Path

import numpy as np

from scenarios.data.cache import needed_folder
from scenarios.data.stackoverflow import FILES, Sentence, Words, read_sentences
from scenarios.errors import ScenarioError
from scenarios.models.next_word import LENGTH, dataset, next_word_task
from scenarios.models.tags import NONE, numbered, split, tags_task
from scenarios.task import Dataset, Task

VOCABULARY = 10_000
TAGS = 500
MOST_WORDS = 64


def tags(path: Path | None) -> Task:
    """Make the task stackoverflow_tags.

    Raises:
        ScenarioError: no folder is given.
    """
    read = partial(load_tags, needed_folder(path, "stackoverflow_tags", FILES))
    return tags_task("stackoverflow_tags", vocabulary=VOCABULARY, tags=TAGS, load=read)


def next_word(path: Path | None) -> Task:
    """Make the task stackoverflow_nwp.

    Raises:
        ScenarioError: no folder is given.
    """
    read = partial(load_next_word, needed_folder(path, "stackoverflow_nwp", FILES))
    return next_word_task("stackoverflow_nwp", read)


def load_tags(folder: Path) -> Dataset:
    """Read bags of words and their tags; the users are the owners.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    words, labels = Words(), Words()

    def take(sentence: Sentence) -> None:
        words.add(dict.fromkeys([*sentence.tokens.split(), *sentence.title.split()]))
        labels.add(dict.fromkeys(filter(None, sentence.tags.split("|"))))

    users, tested = read_sentences(folder, take)
    table = numbered(
        np.array(words.ids), np.array(words.counts), ~tested, most=VOCABULARY, longest=MOST_WORDS
    )
    tagged = numbered(np.array(labels.ids), np.array(labels.counts), ~tested, most=TAGS, longest=TAGS)
    counts = (tagged > NONE).any(axis=1)
    train, test = np.flatnonzero(counts & ~tested), np.flatnonzero(counts & tested)
    data = Dataset(
        train=split(table, tagged, TAGS, train), test=split(table, tagged, TAGS, test), owners=users[train]
    )
    return _filled(data, folder)


def load_next_word(folder: Path) -> Dataset:
    """Read sentences; the users are the owners.

    Raises:
        ScenarioError: no such files, or they hold something else.
    """
    words = Words()
    users, tested = read_sentences(folder, lambda sentence: words.add(sentence.tokens.split()[: LENGTH + 1]))
    sequences = np.full((len(users), LENGTH + 1), -1)
    sequences[np.arange(LENGTH + 1) < np.array(words.counts)[:, None]] = np.array(words.ids)
    return _filled(dataset(sequences, users, tested, len(words.number)), folder)


def _filled(data: Dataset, folder: Path) -> Dataset:
    if not len(data.train) or not len(data.test):
        raise ScenarioError(f"{folder}: its files hold no sentences to train on, or none to test on")
    return data
