"""Tags of Debian packages from their descriptions, by maintainer; stands in for StackOverflow's tags.

A sample is a package. Its inputs are those of the 5,000 commonest words that its description has, at most
200. Its targets are those of the 400 commonest tags, such as use::editing, that people gave it. role::* and
devel::library are left out, because they are common and easy to guess. The clients are the about 220
maintainers with ten packages or more. They have very different numbers and kinds of packages. A tenth of the
source packages is for testing. Packages of one source share text and tags, so they must be on the same side.

The model is that of `scenarios.models.tags`: head 640,256 parameters, tail 51,600; 128 values at the cut.

It does not show the paper's numbers. Nor can figures of different dates be compared: the archive's index
changes with every point release. (`fedlite data fetch` tells its date and counts.) Most packages have no
tags, and others lack some, so a guess that counts as wrong may be right.
"""

from functools import partial
from pathlib import Path

import numpy as np

from scenarios.data.cache import data_folder, read_arrays
from scenarios.errors import ScenarioError
from scenarios.models.tags import NONE, numbered, split, tags_task
from scenarios.seeds import generator
from scenarios.task import Dataset, Task
from scenarios.tasks.test_split import TEST_SHARE

VOCABULARY = 5_000
TAGS = 400
MOST_WORDS = 200
MIN_ROWS = 10
COLUMNS = ("word_ids", "word_counts", "tag_ids", "tag_counts", "maintainers", "sources")


def task(path: Path | None) -> Task:
    """Make the task; the folder is where `fedlite data fetch` puts the data unless one is given."""
    read = partial(load, path or data_folder("debtags"))
    return tags_task("debtags", vocabulary=VOCABULARY, tags=TAGS, load=read)


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
    bags = numbered(words, word_counts, ~tested, most=VOCABULARY, longest=MOST_WORDS)
    labels = numbered(tags, tag_counts, ~tested, most=TAGS, longest=TAGS)
    tagged = (labels > NONE).any(axis=1)
    large = np.bincount(maintainers, weights=tagged & ~tested)[maintainers] >= MIN_ROWS
    train, test = np.flatnonzero(tagged & ~tested & large), np.flatnonzero(tagged & tested)
    return Dataset(
        train=split(bags, labels, TAGS, train),
        test=split(bags, labels, TAGS, test),
        owners=maintainers[train].astype(np.int64),
    )
