"""The table in which `fedlite sweep` and `fedlite compare` hold settings against each other."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Self

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.errors import StudyError
from scenarios.errors import suggestion
from sim.statistics.comparison import cells, compare, head_of, how_compared, in_one_sentence
from sim.statistics.setting_words import short_keys
from sim.statistics.trials import SEED, Trial

MAX_WORD = 16
"""Characters of a word that a narrow table shows in one line."""

SPARED = ("on links", "bytes", "difference")
"""Columns that a narrow terminal does without: first the one that is missed least."""

_GAP = 2
_ENDLESS = 10_000  # characters in a line of a file


def chosen_key(by: str | None, keys: Sequence[str]) -> str | None:
    """Give the key path that --by names, in full or by its last part.

    Raises:
        StudyError: it is none of the keys, or the seed, which is none to compare.
    """
    if by is None:
        return None
    short = {name: key for key, name in short_keys(keys).items() if key != SEED}
    if by in keys and by != SEED:
        return by
    if by not in short:
        near = suggestion(by, dict.fromkeys([*short, *short.values()]), label="compared can be")
        raise StudyError(f"--by {by}: the runs do not differ in it{near}")
    return short[by]


class Column(NamedTuple):
    """How wide a column is at most and at least, in characters, and whether cells may take several lines."""

    width: int
    least_width: int
    wraps: bool

    @classmethod
    def of(cls, texts: Sequence[str], *, wraps: bool) -> Self:
        """Make the column of a heading and cells."""
        width = max(map(len, texts))
        longest = max((len(word) for text in texts for word in text.split()), default=0)
        return cls(width, min(longest, MAX_WORD) if wraps else width, wraps)


def _total(widths: Iterable[int]) -> int:
    return sum(width + _GAP for width in widths) - _GAP


def _widths(columns: Mapping[int, Column], most: int) -> dict[int, int]:
    """Give columns their widths: all that they need if there is room, and less for the widest that wraps."""
    widths = {place: column.width for place, column in columns.items()}
    while _total(widths.values()) > most:
        narrower = [place for place, column in columns.items() if widths[place] > column.least_width]
        if not narrower:
            break
        widths[max(narrower, key=widths.__getitem__)] -= 1
    return widths


def print_comparison(trials: Sequence[Trial], by: str | None = None) -> None:
    """Print settings with the means over their seeds, and what can be concluded."""
    comparison = compare(trials, by)
    keys = len(comparison.trials[0].keys)
    head, rows = head_of(comparison), cells(comparison, brief=True)
    seeds = {row[keys] for row in rows}
    words = [*range(keys + 1), *(place for place, name in enumerate(head) if name == "verdict")]
    columns = {place: Column.of([head[place], *(row[place] for row in rows)], wraps=place in words)
               for place in range(len(head)) if place != keys or len(seeds) > 1}  # fmt: skip
    console = Console()
    width, console.width = console.width if console.is_terminal else _ENDLESS, _ENDLESS
    left_out = []
    for name in SPARED:
        if _total(column.least_width for column in columns.values()) > width and name in head:
            del columns[head.index(name)]
            left_out.append(name)
    table = Table(box=None, pad_edge=False)
    for place, of in _widths(columns, width).items():
        justify: Literal["left", "right"] = "left" if columns[place].wraps else "right"
        table.add_column(Text(head[place]), justify=justify, overflow="fold", width=of)
    for row in rows:
        table.add_row(*(Text(row[place]) for place in columns))
    console.print(table)
    if left_out:
        typer.echo(f"\nNot shown, for want of width: {', '.join(left_out)}.")
    if len(seeds) == 1 and (count := next(iter(seeds))) != "1":
        typer.echo(f"\n{count} seeds each.")
    for text in (in_one_sentence(comparison), how_compared(comparison)):
        if text:
            typer.echo(f"\n{text}")
