"""A client's own data: read once, and again when their files have changed."""

import logging
from collections.abc import Callable
from pathlib import Path

from scenarios.errors import ScenarioError
from scenarios.local.places import state_of
from scenarios.task import Split

log = logging.getLogger(__name__)

Parts = tuple[Split, Split]
"""A client's samples for training, and those that it keeps for evaluation."""


class OwnData:
    """Where a client's own data are; they themselves are the device's.

    Args:
        place: the folder or file with them.
        read: reads, checks and divides them; ScenarioError if they cannot be used.
    """

    def __init__(self, place: Path, read: Callable[[], Parts]) -> None:
        self._place = place
        self._read = read
        self._state = b""

    def read(self) -> Parts:
        """Read them.

        Raises:
            ScenarioError: they cannot be used; the sentence says why.
        """
        self._state = state_of(self._place)  # before reading: what changes meanwhile is read at the next look
        return self._read()

    def look(self) -> Parts | None:
        """Give the data if their files have changed since they were read, and can be used as they are now.

        A file that is half written cannot; it will have changed by the next look.
        """
        if state_of(self._place) == self._state:
            return None
        try:
            return self.read()
        except ScenarioError as error:
            log.warning("%s; the device goes on with the data that it has", error)
            return None
