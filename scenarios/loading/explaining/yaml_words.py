"""Says in plain words why a text is no YAML."""

import re
from collections.abc import Callable

import yaml

_WORDS: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"'\\t'", "a tab; indent with spaces"),
    (
        r"mapping values are not allowed",
        "a second ': ' in one line, or a line indented too far; text with ': ' needs quotes",
    ),
    (r"'<stream end>'", "the end of a list or mapping is missing: a ] or }"),
    (r"unexpected end of stream", "a quote is opened and never closed"),
    (r"expected ',' or '(.)'", lambda found: f"a comma or {found[1]} is missing before this"),
    (
        r"undefined alias '(.*)'",
        lambda found: (
            f"*{found[1]} stands for a value that is marked with &{found[1]} before, and there is none; put "
            "text that begins with * in quotes"
        ),
    ),
    (r"character (.+) that cannot start", lambda found: f"no value begins with {found[1]}; put it in quotes"),
    (r"constructor for the tag '(.*)'", lambda found: f"the tag {found[1]} is not allowed; leave out the !"),
    (r"<block end>", "this line is indented otherwise than those it belongs to"),
    (r"could not find expected ':'", "a key needs ': ' after it, a colon and a space"),
    (r"another document", "a second document begins; a file holds one"),
    (r"'<document start>'", "something follows the end of the first value; write key: value, line by line"),
    (r"unknown escape character '(.+)'", lambda found: f"\\{found[1]} says nothing in double quotes; take '"),
    (r"expected the node content", "a value is missing before this"),
]  # fmt: skip


def in_words(error: yaml.YAMLError) -> str:
    """Say what is wrong with a text; what has no words here is told in PyYAML's."""
    if isinstance(error, yaml.reader.ReaderError):
        return f"the character U+{error.character:04X}, which no text has"
    problem = str(getattr(error, "problem", None) or error)
    for pattern, words in _WORDS:
        found = re.search(pattern, problem)
        if found:
            return words if isinstance(words, str) else words(found)
    return problem
