"""The error for mistakes in a scenario; broker.errors draws the tree of all errors."""

import difflib
from collections.abc import Iterable

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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the known word that is nearest to another, whatever its capitals; None when none is near."""
    plain = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), plain, n=1)
    return plain[near[0]] if near else None


def suggestion(word: str, known: Iterable[str], *, label: str) -> str:
    """Give the end of a sentence about an unknown word: the nearest known word, if any is near, and all."""
    words = list(known)
    near = nearest(word, words)
    hint = f"; did you mean '{near}'?" if near else ";"
    return f"{hint} {label}: {', '.join(words)}"
