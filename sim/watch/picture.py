"""What can be known of a run from what its broker keeps: the state, and the pages for watching."""

from broker.machine.actions import Received, Undecodable
from broker.machine.asyncio_driver import event_of
from broker.transports.base import Frame
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import RunState
from server_node.board.pages import (
    ClientLine,
    ClientsPage,
    EventsPage,
    HistoryPage,
    Page,
    RoundPage,
    RunPage,
    decode,
)


class Picture:
    """Takes messages, each of which may come from anybody, and keeps the last good one of each kind.

    Args:
        run: name of the run.

    Attributes:
        connected: whether the connection to the broker stands.
        state: as the server, or the broker in its place, says it; None: nothing is known of the run.
        run: the page of that name; so are `round`, `history` and `events`.
        clients: pages of clients by their number.
        mistake: why the last bad message was not read; empty: there was none.
    """

    def __init__(self, run: str) -> None:
        self.name = run
        self.connected = False
        self.forget()

    def forget(self) -> None:
        """Forget everything: the connection stands anew, and the broker says again what it keeps."""
        self.state: RunState | None = None
        self.run: RunPage | None = None
        self.round: RoundPage | None = None
        self.history: HistoryPage | None = None
        self.events: EventsPage | None = None
        self.clients: dict[int, ClientsPage] = {}
        self.mistake = ""

    @property
    def subscriptions(self) -> list[str]:
        """What is to be listened to."""
        return [topics.state(self.name), topics.watch(self.name, "#")]

    def take(self, frame: Frame) -> tuple[str, Page | RunState] | None:
        """Take a message.

        Returns:
            The name of what has changed, and what it is now; None if nothing has.
        """
        prefix = topics.watch(self.name, "")
        if frame.topic.startswith(prefix):
            return self._take_page(frame.topic.removeprefix(prefix), frame.payload)
        if frame.topic != topics.state(self.name):
            return None
        match event_of(frame):
            case Received(message=RunState() as state):
                self.state = state
                return "state", state
            case Undecodable(error=error):
                self.mistake = str(error)
            case _:
                self.state = None  # `fedlite clear` has removed it
        return None

    def _take_page(self, name: str, content: bytes) -> tuple[str, Page] | None:
        try:
            page = decode(name, content) if content else None
        except WireError as error:
            self.mistake = str(error)
            return None
        kind, _, number = name.partition("/")
        if isinstance(page, ClientsPage):
            self.clients[int(number)] = page
        elif kind == "clients" and number.isdecimal():
            self.clients.pop(int(number), None)
        elif kind in ("run", "round", "history", "events"):
            setattr(self, kind, page)
        return None if page is None else (name, page)

    @property
    def fleet(self) -> list[ClientLine]:
        """All clients that are shown, in the fleet's order."""
        return [line for _, page in sorted(self.clients.items()) for line in page.clients]

    @property
    def phase(self) -> str:
        """What the run does: as in RunState; `away`: its server is gone; empty: not known."""
        return "" if self.state is None else self.state.phase
