"""The error for mistakes in a scenario; broker.errors draws the tree of all errors."""

import difflib
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable
from pathlib import Path

from broker.errors import UserError


class ScenarioError(UserError):
    """A mistake that the user can correct; the text says where and how, one line for each mistake.

    Attributes:
        detail: the text without the key.
        key: dotted path of the key in the scenario, such as task.name; empty when there is none.
    """

    def __init__(self, detail: str, *, key: str = "") -> None:
        super().__init__(f"{key}: {detail}" if key else detail)
        self.detail = detail
        self.key = key


class MissingDataError(ScenarioError):
    """The data of a task are not on this machine, or too few for the fleet. Durations can be simulated."""


MIN_PART = 3
"""Shorter parts of a word, such as up, stand for nothing."""
NEAR = 0.65
"""How alike two words must be, 0 to 1, for one to be suggested for the other."""


VALUES_ELSEWHERE = {
    "fp32": "float32", "single": "float32", "raw": "float32", "identity": "float32", "none": "float32",
    "fp16": "float16", "half": "float16", "bf16": "float16", "kmeans": "pq", "fedlite": "pq",
    "4g": "lte", "5g": "lte", "wlan": "wifi", "lan": "ethernet", "lora": "lora-backhaul", "gsm": "2g",
    "splitfed": "split", "sl": "split", "fl": "fedavg", "sync": "wait_all", "async": "buffered",
    "timeout": "deadline", "sparse": "topk", "amqtt": "embedded", "hivemq": "url", "emqx": "url",
}  # fmt: skip
"""Values that other tools have, and what comes nearest to each here."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that is nearest to another; None when none is near.

    Capitals and what parts a word (-, _, spaces) do not count. A word that is a part of just one known word,
    as median is of coordinate_median, is nearer than one with similar letters.
    """
    known = list(known)
    meant = VALUES_ELSEWHERE.get(word.lower())
    if meant in known and word not in known:
        return meant
    plain = {_letters(each): each for each in known}
    letters = _letters(word)
    if letters in plain:
        return plain[letters]
    holding = [each for each in plain.values() if letters in _parts(each)]
    if len(holding) == 1:
        return holding[0]
    near = difflib.get_close_matches(letters, plain, n=1, cutoff=NEAR)
    return plain[near[0]] if near else None


def same_word(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that another differs from in capitals and in what parts it (-, _, spaces) alone."""
    return next((each for each in known if _letters(each) == _letters(word)), None)


def _letters(word: str) -> str:
    return re.sub(r"[-_\s]", "", word.lower())


def _parts(word: str) -> set[str]:
    """Give the parts of a word that stand for it, such as digits for digits28."""
    return {part for part in re.split(r"[-_\s]|(?<=[a-z])(?=\d)", word.lower()) if len(part) > MIN_PART}


def suggestion(word: str, known: Iterable[str], *, label: str) -> str:
    """Give the end of a sentence about an unknown word: the nearest known word, if any is near, and all."""
    words = list(known)
    near = nearest(word, words)
    hint = f"; did you mean '{near}'?" if near else ";"
    return f"{hint} {label}: {', '.join(words)}"


def one_line(text: str, most: int = sys.maxsize) -> str:
    r"""Give a text as one line that a terminal shows, with \n and the like for what cannot be printed.

    Args:
        text: of whatever length.
        most: characters; the rest is cut off.
    """
    line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[:most])
    return f"{line}..." if len(text) > most else line


def in_words(error: BaseException) -> str:
    """Give what a user's code raises as a part of a sentence: its kind, its text, and its place."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    said, place = one_line(" ".join(text.split()), MAX_TEXT), _place(error)
    return f"{type(error).__name__}{said and f': {said}'}{place and f' ({place})'}"


MAX_TEXT = 300
"""Characters of an exception's text that a sentence repeats."""
_OURS = Path(__file__).parents[1]
_ROOMS = tuple(
    f"{_OURS / room}{os.sep}" for room in ("broker", "scenarios", "edge_client", "server_node", "sim")
)
_LIBRARIES = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))


def _place(error: BaseException) -> str:
    """Give the file and the line of code that is neither ours nor a library's; empty for none."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{Path(error.filename).name}:{error.lineno}"
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    theirs = [
        f"{Path(file).name}:{line}"
        for file, line in frames
        if not file.startswith((*_ROOMS, *_LIBRARIES, "<"))
    ]
    return theirs[-1] if theirs else ""
