"""What the person in front of a live edge process sees."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from broker.cli.screen import LINE_S, status_shown
from edge_client.board import Board


@contextmanager
def watching(board: Board, *, as_json: bool) -> Iterator[Callable[[float], None]]:
    """Show a board: a bar on a terminal, a line every ten seconds elsewhere, or JSON lines if asked for.

    Yields:
        What is to be called with the time, in seconds, as often as one likes.
    """
    if as_json:
        yield _json_lines(board)
        return
    with status_shown("waiting for the run") as show:
        yield lambda now_s: show(board.line(now_s), now_s, board.round, board.rounds)


def _json_lines(board: Board) -> Callable[[float], None]:
    """Write a line whenever there is another round, and every ten seconds."""
    told, next_s = -1, -math.inf

    def look(now_s: float) -> None:
        nonlocal told, next_s
        if board.round == told and now_s < next_s:
            return
        told, next_s = board.round, now_s + LINE_S
        typer.echo(json.dumps(board.content(now_s)))

    return look
