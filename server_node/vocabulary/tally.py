"""Counts in the ledger what the server hears and says; what is the same for many is weighed once."""

from collections.abc import Iterable, Sequence

from broker.machine.actions import Publish
from broker.wire.messages import Claim, Message
from broker.wire.packing import Scale
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.ledger import Ledger


class Tally:
    """Counts messages that come or go together.

    Args:
        ledger: takes the sums.
        packet_bytes: largest payload of an MQTT packet.
    """

    def __init__(self, ledger: Ledger, packet_bytes: int) -> None:
        self._ledger = ledger
        self._scale = Scale(packet_bytes)

    def hears(self, messages: Sequence[tuple[Message, int]]) -> None:
        """Count messages of clients, each with the bytes of its MQTT packets."""
        begin = 0
        for end, (message, wire_bytes) in enumerate(messages, 1):
            if end == len(messages) or messages[end][0] is not message or messages[end][1] != wire_bytes:
                self._ledger.receive(message, wire_bytes, end - begin)
                begin = end

    def says(self, actions: list[ServerAction]) -> list[ServerAction]:
        """Count what is published; give the same actions."""
        latest: Publish | None = None
        count = 0
        for publish in _counted(actions):
            if latest is not None and (
                latest.message is not publish.message or len(latest.topic) != len(publish.topic)
            ):
                self._says(latest, count)
                count = 0
            latest = publish
            count += 1
        if latest is not None:
            self._says(latest, count)
        return actions

    def _says(self, publish: Publish, times: int) -> None:
        wire_bytes = self._scale.weigh(publish.topic, publish.message).wire_bytes
        self._ledger.publish(publish.message, wire_bytes, times)


def _counted(actions: Iterable[ServerAction]) -> Iterable[Publish]:
    """Give what is said to clients."""
    return (each for each in actions if isinstance(each, Publish) and not isinstance(each.message, Claim))
