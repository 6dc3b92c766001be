"""What the link of a device carries: MQTT packets, and what TCP/IP adds to them.

    device                                     broker
    PUBLISH in segments       ------------>
                              <------------    TCP's acknowledgements, without payload
                              <------------    PUBACK
    acknowledges the PUBACK   ------------>

Each packet has HEADER_BYTES of headers; layers below IP are not counted, nor is TLS, nor what is sent again.
After a silence longer than its retransmission timeout, which is the rule between devices that compute and
wait, Linux acknowledges each of the next QUICK_SEGMENTS at once, and from then on every second one. In a
quicker exchange acknowledgements wait for up to 40 ms and travel with data, and the links carry a little
less. benchmarks/link_bytes.py holds all of this against a packet capture.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

SEGMENT_BYTES = 1448
"""TCP payload of a full packet: an MTU of 1500 less the headers."""

HEADER_BYTES = 52
"""IPv4 20, TCP 20, timestamp option 12; in every packet but the first of a connection."""

FULL_PACKET_BYTES = SEGMENT_BYTES + HEADER_BYTES

ACKNOWLEDGED_SEGMENTS = 2
"""Receivers acknowledge every second segment, RFC 5681, 4.2."""

QUICK_SEGMENTS = 16
"""Linux: so many segments after a silence are acknowledged one by one (TCP_MAX_QUICKACKS)."""

KEEPALIVE_S = 30
"""Seconds of silence after which a client pings the broker, and without an answer after which it gives up.

A whole packet must leave through a slow uplink in this time, since the ping waits behind it."""

PUBACK_BYTES = 4
"""MQTT 3.1.1, 3.4."""

CONNACK_BYTES = 4
"""MQTT 3.1.1, 3.2."""

_SYN_BYTES = 60  # the timestamp option, and those that only a first packet has
_PING_BYTES = _DISCONNECT_BYTES = 2
_CONNECT_HEADER_BYTES = 12  # of a CONNECT below 128 bytes: type, length, protocol, flags, keepalive
_STRING_BYTES = 2  # the length before a string in MQTT


class OnLink(NamedTuple):
    """Bytes of IP packets on a device's link.

    Attributes:
        there: in the direction of what is sent.
        back: in the other one.
    """

    there: int
    back: int


@functools.lru_cache(maxsize=1024)
def segments_of(payload_bytes: int) -> int:
    """Give the TCP segments that a message takes."""
    return -(-payload_bytes // SEGMENT_BYTES)


@functools.lru_cache(maxsize=1024)
def framed_bytes(payload_bytes: int) -> int:
    """Give a message's bytes with the TCP/IP headers of all its packets."""
    return payload_bytes + HEADER_BYTES * segments_of(payload_bytes)


PUBACK_ON_LINK_BYTES = framed_bytes(PUBACK_BYTES)

PING = OnLink(framed_bytes(_PING_BYTES) + HEADER_BYTES, framed_bytes(_PING_BYTES))
"""PINGREQ, PINGRESP and its acknowledgement; what is sent goes from the device to the broker."""

GOODBYE = OnLink(framed_bytes(_DISCONNECT_BYTES) + 2 * HEADER_BYTES, 2 * HEADER_BYTES)
"""DISCONNECT, and the end of the TCP connection in both directions; also from the device to the broker."""


@functools.lru_cache(maxsize=1024)
def message_on_link(wire_bytes: int, packets: int = 1, qos: int = 1) -> OnLink:
    """Give what a message costs on a link, until the sender has nothing more to wait for.

    Args:
        wire_bytes: of its PUBLISH packets.
        packets: so many PUBLISH packets; they leave one after the other.
        qos: 1: the receiver answers each packet with a PUBACK; 0: nothing is answered.
    """
    segments = segments_of(wire_bytes)
    quick = min(segments, QUICK_SEGMENTS)
    back = HEADER_BYTES * (quick + -(-(segments - quick) // ACKNOWLEDGED_SEGMENTS))
    if not qos:
        return OnLink(framed_bytes(wire_bytes), back)
    return OnLink(framed_bytes(wire_bytes) + HEADER_BYTES, back + packets * PUBACK_ON_LINK_BYTES)


def connection_on_link(client_id: str, subscriptions: Sequence[str], will: tuple[str, int]) -> OnLink:
    """Give what it costs a device to connect: the handshake of TCP, CONNECT and SUBSCRIBE with their answers.

    User and password are left out, because the server does not know them.

    Args:
        client_id: of the device at the broker.
        subscriptions: topic filters.
        will: topic of the last will and bytes of its payload.
    """
    strings = (client_id, will[0])
    connect = _CONNECT_HEADER_BYTES + sum(_STRING_BYTES + len(text.encode()) for text in strings)
    connect += _STRING_BYTES + will[1]
    subscribe = 4 + sum(_STRING_BYTES + len(topic.encode()) + 1 for topic in subscriptions)
    suback = 4 + len(subscriptions)
    return OnLink(
        _SYN_BYTES + HEADER_BYTES + framed_bytes(connect) + framed_bytes(subscribe),
        _SYN_BYTES + framed_bytes(CONNACK_BYTES) + framed_bytes(suback),
    )


def pings_of_silence(silence_s: float, keepalive_s: float) -> int:
    """Give how often a client pings its broker in a silence of so many seconds."""
    return int(silence_s / keepalive_s)
