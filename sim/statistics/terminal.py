"""The table in which `fedlite sweep` and `fedlite compare` hold settings against each other."""

from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.errors import StudyError
from scenarios.errors import suggestion
from sim.statistics.comparison import cells, compare, head_of, how_compared, in_one_sentence
from sim.statistics.setting_words import compact, short_keys
from sim.statistics.trials import SEED, Trial


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
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(head_of(comparison)):
        words = number < keys or name == "verdict"
        table.add_column(Text(name), justify="left" if words else "right", no_wrap=not words, overflow="fold")
    for row in cells(comparison, compact):
        table.add_row(*map(Text, row))
    Console().print(table)
    for text in (in_one_sentence(comparison), how_compared(comparison)):
        if text:
            typer.echo(f"\n{text}")
