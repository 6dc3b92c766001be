"""The table in which `fedlite sweep` and `fedlite compare` hold settings against each other."""

from collections.abc import Sequence

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
        near = suggestion(by, [*short, *short.values()], label="compared can be")
        raise StudyError(f"--by {by}: the runs do not differ in it{near}")
    return short[by]


def print_comparison(trials: Sequence[Trial], by: str | None = None) -> None:
    """Print settings with the means over their seeds, and what can be concluded."""
    comparison = compare(trials, by)
    keys = len(comparison.trials[0].keys)
    head, rows = head_of(comparison), cells(comparison, brief=True)
    seeds = {row[keys] for row in rows}
    shown = [place for place in range(len(head)) if place != keys or len(seeds) > 1]
    table = Table(box=None, pad_edge=False)
    for place in shown:
        words = place <= keys or head[place] == "verdict"
        texts = [head[place], *(row[place] for row in rows)]
        longest = max(len(word) for text in texts for word in text.split())
        table.add_column(
            Text(head[place]),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=min(longest, MAX_WORD),
        )
    for row in rows:
        table.add_row(*(Text(row[place]) for place in shown))
    Console().print(table)
    if len(seeds) == 1 and (count := next(iter(seeds))) != "1":
        typer.echo(f"\n{count} seeds each.")
    for text in (in_one_sentence(comparison), how_compared(comparison)):
        if text:
            typer.echo(f"\n{text}")
