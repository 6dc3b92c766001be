"""Reads CSV files of people as they are: with a byte order mark, spaces round the values, semicolons."""

import csv
from collections.abc import Iterator
from pathlib import Path

from scenarios.errors import ScenarioError


def rows(file: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Give each row's place, for messages, and its values by column, without spaces round them.

    Args:
        file: with the names of the columns in its first line.
        columns: that it must have.

    Raises:
        ScenarioError: it cannot be read, or is no such file.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    separator = max(",;\t", key=lines[0].count) if lines else ","
    try:
        table = list(enumerate(csv.reader(lines, delimiter=separator, strict=True), 1))
    except csv.Error as error:
        raise ScenarioError(f"{file}: not CSV: {error}") from error
    names = [name.strip() for name in table[0][1]] if table else []
    if not set(columns) <= set(names):
        found = f", not {', '.join(names)}" if any(names) else ""
        raise ScenarioError(f"{file}:1: the first line must name the columns {', '.join(columns)}{found}")
    for line, values in table[1:]:
        row = [value.strip() for value in values]
        if not any(row):
            continue
        if len(row) > len(names):
            raise ScenarioError(
                f"{file}:{line}: {len(row)} values for {len(names)} columns{_commas(separator)}"
            )
        yield f"{file}:{line}", dict.fromkeys(names, "") | dict(zip(names, row, strict=False))


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
