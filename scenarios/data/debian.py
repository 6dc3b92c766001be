"""Reads package descriptions and their tags (debtags) from the index of the Debian archive that apt uses."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scenarios.data.cache import Arrays
from scenarios.data.packages import needs_apt, output, run
from scenarios.errors import ScenarioError

MIN_ROWS_OF_WORD = 10
WORD = re.compile(r"[a-z][a-z+]+")
EASY = re.compile(r"role::|devel::library$")
"""Tags that only say what kind of package it is. They are common and easy to guess."""


def fetch_index(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Get the archive's index into an empty folder; apt checks its signatures, and no root is needed.

    Returns:
        The files with packages, the files with English descriptions, and for each archive its name and date.

    Raises:
        ScenarioError: there is no apt, or it cannot get the index.
    """
    needs_apt("debtags")
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    options = [f"Dir::State::Lists={folder}/lists", f"Dir::Cache={folder}/cache", "Acquire::Languages=en"]
    options.append("Acquire::GzipIndexes=false")  # as plain text
    apt = ["apt-get", *(word for option in options for word in ("-o", option))]
    run([*apt, "update"], "apt: the package index")
    lines = output([*apt, "indextargets", "--format", "$(CREATED_BY) $(COMPONENT) $(FILENAME)"])
    targets = [line.split(" ", 2) for line in lines if line.count(" ") >= 2]  # noqa: PLR2004 - see the format
    packages = [Path(file) for kind, component, file in targets if (kind, component) == ("Packages", "main")]
    texts = [Path(file) for kind, component, file in targets if (kind, component) == ("Translations", "main")]
    return packages, texts, sorted(map(_archive, (folder / "lists").glob("*Release")))


def convert(packages: list[Path], texts: list[Path], archives: list[str]) -> Arrays:
    """Read the packages with tags; each is kept once, by its name.

    Maintainers and source packages become running numbers: no name or address is kept.

    Returns:
        words: text, shape (types,): the words of at least ten descriptions, sorted.
        word_ids: int32: indices into `words`, one package after the other; no index twice in a package.
        word_counts: int32, shape (packages,): how many of them each package has.
        tags: text, shape (tags,): names, sorted, without role::* and devel::library.
        tag_ids, tag_counts: int32: the same for tags.
        maintainers, sources: int32, shape (packages,).
        archives: text: name and date of each archive.

    Raises:
        ScenarioError: no package has tags.
    """
    english: dict[str, str] = {}
    for file in texts:
        english |= {entry["Description-md5"]: entry.get("Description-en", "") for entry in _entries(file)}
    rows: dict[str, tuple[list[str], list[str], str, str]] = {}
    for file in packages:
        for entry in _entries(file):
            tags = [tag for tag in entry.get("Tag", "").replace(",", " ").split() if not EASY.match(tag)]
            text = english.get(entry.get("Description-md5", ""), entry.get("Description", ""))
            source = entry.get("Source", entry["Package"]).split(" ")[0]
            if tags:
                words = sorted(set(WORD.findall(text.lower())))
                rows.setdefault(
                    entry["Package"], (words, sorted(set(tags)), entry.get("Maintainer", ""), source)
                )
    if not rows:
        raise ScenarioError("no package of the index has tags: debtags needs Debian's main archive")
    described, tagged, maintainers, sources = zip(*rows.values(), strict=True)
    return {
        **_indices("word", described, MIN_ROWS_OF_WORD),
        **_indices("tag", tagged, 1),
        "maintainers": _numbers(maintainers),
        "sources": _numbers(sources),
        "archives": np.array(archives),
    }


def _indices(name: str, rows: tuple[list[str], ...], least: int) -> Arrays:
    """Number the words that are in at least `least` rows."""
    words, counts = np.unique(np.concatenate([np.array(row, np.str_) for row in rows]), return_counts=True)
    kept = words[counts >= least]
    number = {str(word): place for place, word in enumerate(kept)}
    ids = [[number[word] for word in row if word in number] for row in rows]
    return {
        f"{name}s": kept,
        f"{name}_ids": np.concatenate([np.array(row, np.int32) for row in ids]),
        f"{name}_counts": np.array([len(row) for row in ids], np.int32),
    }


def _numbers(names: tuple[str, ...]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Number names in the order in which they come."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], np.int32)


def _entries(file: Path) -> Iterator[dict[str, str]]:
    """Give the paragraphs of an index file by field; a field's further lines begin with a space."""
    entry: dict[str, str] = {}
    field = ""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line == "\n":
                yield entry
                entry = {}
            elif line.startswith(" "):
                entry[field] += "\n" + line.strip()
            else:
                field, _, value = line.partition(":")
                entry[field] = value.strip()
    if entry:
        yield entry


def _archive(release: Path) -> str:
    """Give name and date of a signed Release file."""
    fields = dict(re.findall(r"^(Origin|Codename|Date): (.+)$", release.read_text("utf-8"), re.MULTILINE))
    return " ".join(fields.get(name, "?") for name in ("Origin", "Codename", "Date"))
