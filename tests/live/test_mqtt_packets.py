"""MQTT's packet boundaries in a stream that comes in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.shaped.mqtt_packets import CONNECT, MAX_PIECE_BYTES, PUBLISH, Packet, PacketSplitter, client_id


def packet(kind: int, remaining: int) -> bytes:
    """Write a packet's fixed header (MQTT 3.1.1, 2.2.3) and fill the rest."""
    length, left = bytearray(), remaining
    while left > 127:
        length.append(left % 128 | 128)
        left //= 128
    length.append(left)
    return bytes([kind << 4]) + length + bytes(index % 251 for index in range(remaining))


def connect(identifier: bytes) -> bytes:
    body = b"\0\4MQTT\4\2\0\x1e" + len(identifier).to_bytes(2) + identifier
    return bytes([CONNECT << 4, len(body)]) + body


def fed_in_pieces(stream: bytes, cuts: list[int]) -> list[Packet]:
    splitter, ends = PacketSplitter(), sorted(cut % (len(stream) + 1) for cut in cuts)
    return [
        whole
        for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True)
        for whole in splitter.feed(stream[begin:end])
    ]


@given(
    st.lists(st.tuples(st.integers(1, 14), st.sampled_from([0, 1, 2, 127, 128, 300, 16_383, 16_384]))),
    st.lists(st.integers(0, 2**20), max_size=20),
)
def test_however_a_stream_is_cut_the_packets_are_the_same(
    contents: list[tuple[int, int]], cuts: list[int]
) -> None:
    packets = [Packet(kind, packet(kind, remaining)) for kind, remaining in contents]
    assert fed_in_pieces(b"".join(whole.data for whole in packets), cuts) == packets


@given(st.lists(st.integers(0, 400_000), max_size=8))
def test_a_packet_that_is_too_large_comes_in_pieces(cuts: list[int]) -> None:
    large, small = packet(PUBLISH, 300_000), packet(4, 2)
    pieces = fed_in_pieces(large + small, cuts)
    assert [len(piece.data) for piece in pieces] == [MAX_PIECE_BYTES, MAX_PIECE_BYTES, 300_004 - 2**18, 4]
    assert [piece.kind for piece in pieces] == [PUBLISH, PUBLISH, PUBLISH, 4]
    assert b"".join(piece.data for piece in pieces) == large + small


def test_a_length_of_five_bytes_is_not_mqtt() -> None:
    splitter = PacketSplitter()
    assert splitter.feed(b"\x30\xff\xff\xff") == []
    with pytest.raises(ValueError, match="not MQTT: a remaining length"):
        splitter.feed(b"\xff")


def test_a_connect_says_whose_stream_it_is() -> None:
    (whole,) = PacketSplitter().feed(connect(b"run-c7"))
    assert client_id(whole) == "run-c7"


@pytest.mark.parametrize("bad", [packet(PUBLISH, 30), packet(CONNECT, 3), connect(b""), connect(b"run")[:-1]])
def test_a_stream_without_a_name_is_nobodys(bad: bytes) -> None:
    with pytest.raises(ValueError, match=r"no CONNECT|without a client identifier"):
        client_id(Packet(bad[0] >> 4, bad))
