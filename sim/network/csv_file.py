"""Reads CSV files of people as they are, from whatever program.

In UTF-8 or UTF-16, with a byte order mark, spaces round the values, semicolons or tabs between them, decimal
commas with semicolons, empty lines, comments that begin with #, names of columns in capitals.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from scenarios.errors import ScenarioError, nearest, same_word
from scenarios.text_files import read_text


def rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each row's place, for messages, and its values by column, without spaces round them.

    Args:
        file: with the names of the columns in its first line that is no comment.
        columns: that it must have.

    Raises:
        ScenarioError: it cannot be read, or is no such file.
    """
    lines = read_text(file).splitlines()
    first = next((line for line in lines if not _is_nothing(line)), "")
    separator = max(",;\t", key=first.count)
    try:
        table = [
            (number, [value.strip() for value in values])
            for number, values in enumerate(csv.reader(lines, delimiter=separator, strict=True), 1)
            if not _is_nothing(lines[number - 1])
        ]
    except (
        csv.Error,
        IndexError,
    ) as error:  # a quote that goes on over several lines has fewer rows than lines
        raise ScenarioError(f"{file}: not CSV: {error}") from error
    (line, found), *others = table or [(1, [""])]
    names = [same_word(name, columns) or name for name in found]
    missing = [name for name in columns if name not in names]
    if missing:
        raise ScenarioError(f"{file}:{line}: {_without(missing, columns, names)}")
    if twice := next((name for name in names if name and names.count(name) > 1), ""):
        raise ScenarioError(f"{file}:{line}: two columns are called {twice}; leave one of them out")
    for line, row in others:
        if not any(row):
            continue
        if len(row) > len(names):
            raise ScenarioError(
                f"{file}:{line}: {len(row)} values for {len(names)} columns{_commas(separator)}"
            )
        read = map(_with_point, row) if separator == ";" else row
        yield f"{file}:{line}", dict.fromkeys(names, "") | dict(zip(names, read, strict=False))


def _is_nothing(line: str) -> bool:
    """Say whether a line is empty or a comment."""
    return not line.strip() or line.lstrip().startswith("#")


def _with_point(value: str) -> str:
    """Write a decimal comma, which goes with semicolons between the values, as a point."""
    return value.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", value) else value


def _without(missing: Sequence[str], columns: Sequence[str], names: Sequence[str]) -> str:
    """Say which columns the first line does not name."""
    told = f"the first line must name the columns {', '.join(columns)}"
    if not any(names):
        return told
    near = [(name, nearest(name, names)) for name in missing]
    hints = [f"write {name} for {other}" for name, other in near if other]
    return f"{told}, not {', '.join(names)}{'; ' if hints else ''}{' and '.join(hints)}"


def _commas(separator: str) -> str:
    return "; write 0.5, not 0,5" if separator == "," else ""


def number(where: str, text: str) -> float:
    """Read a number.

    Raises:
        ScenarioError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        comma = f"; write {text.replace(',', '.')}" if "," in text else ""
        raise ScenarioError(f"{where}: '{text}' is no number{comma}") from None
