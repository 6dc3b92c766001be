"""Shows a board to those who watch: the log, the broker, the screen."""

import logging

from broker.transports.bulletin import Bulletin
from server_node.board.board import Board
from server_node.board.pages import encode
from server_node.board.screen import Glance
from server_node.board.views import Views

log = logging.getLogger(__name__)


class Show:
    """What is done once a second, and once more at the end.

    Args:
        board: what there is to see.
        views: of the board.
        bulletin: publishes its pages; None: they are not published.
        glance: is shown it.
    """

    def __init__(self, board: Board, views: Views, bulletin: Bulletin | None, glance: Glance) -> None:
        self._board = board
        self._views = views
        self._bulletin = bulletin
        self._glance = glance

    def look(self, now_s: float) -> None:
        """Show what there is to see at a time."""
        for happening in self._board.take_unread():
            log.info("%s %s", happening.client or "the run is", happening.what)
        view = self._views.view(now_s, self._bulletin.wire_bytes if self._bulletin is not None else 0)
        if self._bulletin is not None:
            pages = [(name, encode(page)) for name, page in view.named()]
            self._bulletin.post(pages if self._board.may_publish else None)
        self._glance(view)
