"""Says in plain words what is wrong with a command line that the parser refuses."""

import re
from typing import Any

from broker.urls import masked

_WORDS = (
    (r"Input should be greater than or equal to (\S+)", r"must be at least \1"),
    (r"Input should be less than or equal to (\S+)", r"must be at most \1"),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be a valid number.*", "must be a number"),
    (r"Value error, ('.*') is not one of (.*)\.", r"\1 is not one of \2"),
    (r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", r"Unexpected: \1"),
)
_KEYS = "; keys of the scenario are set with --set KEY.PATH=VALUE"


def in_plain_words(error: Any) -> None:
    """Change the message of a parser's error: in words of people, and without the password of a URL.

    Args:
        error: any exception; those without a message stay as they are.
    """
    words = getattr(error, "message", None)
    if not isinstance(words, str):
        return
    for pattern, plain in _WORDS:
        words = re.sub(pattern, plain, words, flags=re.DOTALL)
    if words.startswith("No such option") and _has_settings(getattr(error, "ctx", None)):
        words += _KEYS
    error.message = masked(words)


def _has_settings(context: Any) -> bool:
    return any(each.name == "settings" for each in getattr(getattr(context, "command", None), "params", ()))
