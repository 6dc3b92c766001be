"""What a device's link carries, against packets written out by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.chunks import mqtt_packet_bytes
from broker.wire.link_bytes import (
    GOODBYE,
    HEADER_BYTES,
    PING,
    SEGMENT_BYTES,
    OnLink,
    connection_on_link,
    framed_bytes,
    message_on_link,
    pings_of_silence,
)

IP_AND_TCP = bytes(20) + bytes(20) + bytes(12)  # with the timestamp option
ACK = IP_AND_TCP
PUBACK = IP_AND_TCP + b"\x40\x02\x00\x01"
HELLO = b"\x32\x0a\x00\x03t/1\x00\x01hey"  # PUBLISH, QoS 1, topic t/1, packet 1


def length(*packets: bytes) -> int:
    return sum(map(len, packets))


def test_a_small_message_is_a_packet_its_puback_and_an_acknowledgement_of_each() -> None:
    assert len(HELLO) == mqtt_packet_bytes("t/1", 3)
    there, back = length(IP_AND_TCP + HELLO, ACK), length(ACK, PUBACK)
    assert message_on_link(len(HELLO)) == OnLink(there, back)


def test_without_a_puback_tcp_alone_acknowledges() -> None:
    assert message_on_link(len(HELLO), qos=0) == OnLink(length(IP_AND_TCP + HELLO), length(ACK))


def test_the_first_segments_are_acknowledged_one_by_one_and_then_every_second() -> None:
    full = IP_AND_TCP + bytes(SEGMENT_BYTES)
    assert len(full) == 1500
    there = length(full, full, full, full, IP_AND_TCP + bytes(7), ACK)
    assert message_on_link(4 * SEGMENT_BYTES + 7) == OnLink(there, length(*5 * [ACK], PUBACK))
    assert message_on_link(19 * SEGMENT_BYTES) == OnLink(
        length(*19 * [full], ACK), length(*18 * [ACK], PUBACK)
    )


def test_each_packet_of_a_message_has_its_puback() -> None:
    one, three = message_on_link(3000, 1), message_on_link(3000, 3)
    assert (three.there, three.back) == (one.there, one.back + length(PUBACK, PUBACK))


def test_a_ping_is_three_packets() -> None:
    request, response = IP_AND_TCP + b"\xc0\x00", IP_AND_TCP + b"\xd0\x00"
    assert OnLink(length(request, ACK), length(response)) == PING


def test_a_connection_is_what_a_capture_showed() -> None:
    """Run `linkb` of client c0 when topics were longer: CONNECT 59 bytes, SUBSCRIBE 70, SUBACK 7."""
    subscriptions = ["fl/+/linkb/state", "fl/2/linkb/down/c0", "fl/2/linkb/watch/metric"]
    there, back = connection_on_link("linkb-c0", subscriptions, ("fl/2/linkb/status/c0", 13))
    syn = 60
    assert there == syn + HEADER_BYTES + 2 * HEADER_BYTES + 59 + 70
    assert back == syn + 2 * HEADER_BYTES + 4 + 7


def test_leaving_is_a_disconnect_and_an_end_of_both_directions() -> None:
    disconnect = IP_AND_TCP + b"\xe0\x00"
    fin = ACK
    assert OnLink(length(disconnect, fin, ACK), length(fin, ACK)) == GOODBYE


@given(st.integers(1, 10**6), st.integers(1, 10), st.sampled_from([0, 1]))
def test_more_is_never_cheaper_and_nothing_is_free(wire_bytes: int, packets: int, qos: int) -> None:
    there, back = message_on_link(wire_bytes, packets, qos)
    more = message_on_link(wire_bytes + 1, packets, qos)
    assert more.there > there >= framed_bytes(wire_bytes) > wire_bytes
    assert more.back >= back >= HEADER_BYTES
    assert (there + back) - wire_bytes >= 2 * HEADER_BYTES


@given(st.integers(1, 10**6), st.integers(1, 10**6))
def test_two_messages_in_one_are_cheaper(first: int, second: int) -> None:
    assert sum(message_on_link(first + second)) < sum(message_on_link(first)) + sum(message_on_link(second))


@pytest.mark.parametrize(("silence_s", "pings"), [(0, 0), (29.9, 0), (30, 1), (59, 1), (3600, 120)])
def test_a_client_pings_after_each_keepalive_of_silence(silence_s: float, pings: int) -> None:
    assert pings_of_silence(silence_s, 30) == pings
