"""What the person in front of a live server sees."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from broker.cli.screen import status_shown
from server_node.board.views import View
from server_node.board.words import run_line
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport, Watch

Glance = Callable[[View], None]
"""Is called once a second with what there is to see."""


@contextmanager
def watching_live(rounds: int, clients: int, *, as_json: bool) -> Iterator[tuple[Watch, Glance]]:
    """Give what a live run is shown with: a bar on a terminal or lines elsewhere, or JSON lines if asked for.

    Yields:
        What hears of each fact, and what is shown the run once a second.
    """
    if as_json:
        yield round_as_json, lambda _view: None
        return
    with status_shown(f"waiting for {clients} clients", rounds) as show:

        def glance(view: View) -> None:
            traffic = view.history.traffic
            show(run_line(view.run, view.at), view.at, traffic[-1][0] if traffic else 0, rounds)

        yield lambda _fact, _ledger: None, glance


def round_as_json(fact: Fact, ledger: Ledger) -> None:
    """Print a round as a line of JSON."""
    if isinstance(fact, RoundReport):
        wire = {name: flow.wire_bytes for name, flow in ledger.flows.items()}
        loss = None if math.isnan(fact.loss) else fact.loss
        line = {"round": fact.round, "loss": loss, "metric": fact.metric, "online": fact.online}
        typer.echo(json.dumps(line | {"wire_bytes": wire}))
