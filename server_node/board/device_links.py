"""Counts what the devices' links carry, which the server cannot see: from the messages that it can see.

It watches the state machine from outside, as the board does, and adds what broker.wire.link_bytes says of
each message, connection and silence. docs/models.md names what is left out.
"""

from collections.abc import Callable
from typing import Protocol

from broker.machine.actions import Publish, Received, Undecodable
from broker.wire import topics
from broker.wire.chunks import packets_in
from broker.wire.link_bytes import (
    GOODBYE,
    KEEPALIVE_S,
    PING,
    OnLink,
    connection_on_link,
    message_on_link,
    pings_of_silence,
)
from broker.wire.messages import Hello, Message, RunState, Status
from broker.wire.packing import encoded_bytes, published, qos_of
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan


class Watched(Protocol):
    """A state machine."""

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """See ServerCore.handle."""


class DeviceLinks:
    """Stands between driver and state machine: it is a state machine itself, with the same actions.

    Args:
        core: the state machine.
        plan: see Plan.
        ledger: takes the bytes, as `links_up` and `links_down`.
        client_id_of: gives a client's identifier at the broker by its name.
    """

    def __init__(self, core: Watched, plan: Plan, ledger: Ledger, client_id_of: Callable[[str], str]) -> None:
        self._core = core
        self._plan = plan
        self._ledger = ledger
        self._client_id_of = client_id_of
        self._fleet = frozenset(plan.clients)
        self._sessions: dict[str, int] = {}  # of each client that is connected, the connection
        self._active_s: dict[str, float] = {}  # when a message was last on its link
        self._retained: dict[str, OnLink] = {}  # by topic: what every client gets when it connects
        self._now_s = 0.0

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """Let the state machine take an event, and count what has passed and what is said."""
        self._now_s = now_s
        if isinstance(event, Received | Undecodable) and event.sender in self._fleet:
            self._heard(event)
        actions = self._core.handle(event, now_s)
        for action in actions:
            if isinstance(action, Publish):
                self._said(action)
        return actions

    def _heard(self, event: Received | Undecodable) -> None:
        client = event.sender
        message = event.message if isinstance(event, Received) else None
        if isinstance(message, Hello) or (isinstance(message, Status) and message.online):
            self._connects(client, message.session)
        self._up(client, message_on_link(event.wire_bytes, *self._packets(message, event.wire_bytes)))
        if isinstance(message, Status) and not message.online:
            self._leaves(client)

    def _packets(self, message: Message | None, message_wire_bytes: int) -> tuple[int, int]:
        """Give the number of packets, and their QoS."""
        limit = self._plan.packet_bytes
        if message is None:
            return -(-message_wire_bytes // limit), 1
        size = encoded_bytes(message)
        return packets_in(size, limit), qos_of(message, size)

    def _said(self, publish: Publish) -> None:
        message, limit = publish.message, self._plan.packet_bytes
        on_link = message_on_link(*published(publish.topic, message, limit))
        if isinstance(message, RunState):
            self._to_all(publish.topic, on_link)
            if message.phase == "finished":
                self._all_leave()
        else:
            client = publish.topic.rpartition("/")[2]
            if publish.topic == topics.down(self._plan.run, client):
                self._down(client, on_link)

    def _to_all(self, topic: str, on_link: OnLink) -> None:
        self._retained[topic] = on_link
        for client in self._sessions:
            self._down(client, on_link)

    def _connects(self, client: str, session: int) -> None:
        if self._sessions.get(client) == session:
            return
        self._sessions[client] = session
        self._active_s[client] = self._now_s
        run = self._plan.run
        will = topics.status(run, client), encoded_bytes(Status(online=False, session=session))
        subscriptions = topics.client_subscriptions(run, client)
        self._up(client, connection_on_link(self._client_id_of(client), subscriptions, will))
        for on_link in self._retained.values():
            self._down(client, on_link)

    def _leaves(self, client: str) -> None:
        if self._sessions.pop(client, None) is not None:
            self._up(client, GOODBYE)

    def _all_leave(self) -> None:
        """Count what devices say to the end of the run: nobody hears that any more."""
        for client, session in list(self._sessions.items()):
            status = Status(online=False, session=session)
            self._up(client, message_on_link(*published(topics.status(self._plan.run, client), status)))
            self._leaves(client)

    def _up(self, client: str, on_link: OnLink) -> None:
        self._silence(client)
        self._ledger.links_up += on_link.there
        self._ledger.links_down += on_link.back

    def _down(self, client: str, on_link: OnLink) -> None:
        self._silence(client)
        self._ledger.links_up += on_link.back
        self._ledger.links_down += on_link.there

    def _silence(self, client: str) -> None:
        """Count the pings of a silence that ends now."""
        before_s, self._active_s[client] = self._active_s.get(client, self._now_s), self._now_s
        pings = pings_of_silence(self._now_s - before_s, KEEPALIVE_S)
        self._ledger.links_up += pings * PING.there
        self._ledger.links_down += pings * PING.back
