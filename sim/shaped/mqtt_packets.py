"""Cuts a stream of bytes into MQTT packets, and tells whose stream it is (MQTT 3.1.1, 2.2 and 3.1)."""

from typing import NamedTuple

CONNECT = 1
PUBLISH = 3
SUBACK = 9
"""Packet types; MQTT 3.1.1, 2.2.1."""

MAX_PIECE_BYTES = 2**17
"""Larger than any packet of ours; what is larger still comes in pieces of this size."""

_LENGTH_BYTES = 4
"""That a remaining length has at most; MQTT 3.1.1, 2.2.3."""

_CONTINUES = 0x80
"""Set in all bytes of a remaining length but the last."""

_VARIABLE_HEADER_BYTES = 10
"""Of CONNECT: protocol name, level, flags and keepalive; then comes the client identifier."""


class Packet(NamedTuple):
    """A packet, or a piece of one above MAX_PIECE_BYTES.

    Attributes:
        kind: its type.
        data: all its bytes.
    """

    kind: int
    data: bytes


class PacketSplitter:
    """Takes bytes as they come and gives whole packets, with at most one packet kept."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._kind = 0
        self._missing = 0  # bytes of the packet that were not given yet; 0 between packets

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes; give the packets that they complete.

        Raises:
            ValueError: the stream is not MQTT.
        """
        self._held += data
        packets = []
        while self._begun():
            size = min(self._missing, MAX_PIECE_BYTES)
            if len(self._held) < size:
                break
            packets.append(Packet(self._kind, bytes(self._held[:size])))
            del self._held[:size]
            self._missing -= size
        return packets

    def _begun(self) -> bool:
        """Say whether the size of what comes next is known."""
        if not self._missing and (header := _fixed_header(self._held)):
            self._missing = sum(header)
            self._kind = self._held[0] >> 4
        return self._missing > 0


def _fixed_header(head: bytes | bytearray) -> tuple[int, int] | None:
    """Give the sizes of a packet's fixed header and of what remains; None if it is not there yet."""
    remaining = 0
    for place, byte in enumerate(head[1 : 1 + _LENGTH_BYTES]):
        remaining |= (byte & ~_CONTINUES) << (7 * place)
        if not byte & _CONTINUES:
            return 2 + place, remaining
    if len(head) > _LENGTH_BYTES:
        raise ValueError("not MQTT: a remaining length of more than four bytes")
    return None


def client_id(connect: Packet) -> str:
    """Give the client identifier of a CONNECT packet.

    Raises:
        ValueError: it is no CONNECT, or too short.
    """
    header = _fixed_header(connect.data)
    if connect.kind != CONNECT or header is None:
        raise ValueError("not MQTT: the first packet is no CONNECT")
    payload = connect.data[header[0] + _VARIABLE_HEADER_BYTES :]
    length = int.from_bytes(payload[:2])
    name = payload[2 : 2 + length]
    if not name or len(name) < length:
        raise ValueError("a CONNECT without a client identifier")
    return name.decode()
