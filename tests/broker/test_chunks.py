import contextlib
import random
import zlib
from typing import Any

import msgpack
import pytest
from amqtt.mqtt.publish import PublishPacket
from hypothesis import given
from hypothesis import strategies as st

from broker.wire import chunks
from broker.wire.chunks import HEADER_BYTES, Message, Reassembler, ReassemblyLimits
from broker.wire.errors import WireError

LIMIT = HEADER_BYTES + 10
TOPIC = "fl/run/up/pi-1"
BOUNDARY_SIZES = [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 2 * (LIMIT - HEADER_BYTES), 10 * LIMIT, 997]


def pattern(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def feed(reassembler: Reassembler, frames: list[bytes], topic: str = TOPIC) -> list[Message]:
    return [message for frame in frames if (message := reassembler.add(topic, frame))]


def altered(frame: bytes, position: int, value: Any) -> bytes:
    """The chunk again, one field of its msgpack array changed; field 2 is the transfer, 6 the part."""
    fields = msgpack.unpackb(frame)
    fields[position] = value
    transfer, index, count, crc32, part = fields[2:]
    return chunks._HEADER.pack(
        b"\x97\x01\x00", 0xCE, transfer, 0xCD, index, 0xCD, count, 0xCE, crc32, 0xC6, len(part)
    ) + bytes(part)


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_frame_sizes_are_those_of_split(size: int) -> None:
    frames = chunks.split(pattern(size), 7, LIMIT)
    assert chunks.frame_sizes(size, LIMIT) == [len(frame) for frame in frames]
    assert all(len(frame) <= LIMIT for frame in frames)


def test_a_small_message_travels_as_it_is() -> None:
    payload = pattern(LIMIT)
    assert chunks.split(payload, 7, LIMIT)[0] is payload


def test_a_chunk_is_the_documented_msgpack_array() -> None:
    payload = pattern(45)
    second = chunks.split(payload, 300, LIMIT)[1]
    assert msgpack.unpackb(second) == [1, 0, 300, 1, 5, zlib.crc32(payload), payload[10:20]]


@given(st.integers(0, 2**31), st.integers(0, 40), st.binary(max_size=60))
def test_no_message_looks_like_a_chunk(number: int, kind: int, blob: bytes) -> None:
    assert not chunks.is_chunk(msgpack.packb([1, kind + 1, number, blob]))
    assert all(map(chunks.is_chunk, chunks.split(pattern(LIMIT + 1), number, LIMIT)))


@given(st.binary(min_size=1, max_size=400), st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
def test_shuffled_and_duplicated_chunks_give_the_message_once(
    payload: bytes, rng: random.Random, transfer: int
) -> None:
    payload += pattern(LIMIT)
    frames = chunks.split(payload, transfer, LIMIT)
    delivered = frames + rng.choices(frames, k=len(frames))
    rng.shuffle(delivered)
    reassembler = Reassembler()
    assert feed(reassembler, delivered) == [Message(payload, chunks.wire_bytes(TOPIC, len(payload), LIMIT))]
    assert reassembler.held_bytes == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=60)), max_size=30))
def test_any_bytes_after_the_magic_are_taken_or_refused(packets: list[tuple[int, bytes]]) -> None:
    reassembler = Reassembler(ReassemblyLimits(message_bytes=100, total_bytes=3000))
    for topic, noise in packets:
        with contextlib.suppress(WireError):
            reassembler.add(str(topic), b"\x97\x01\x00" + noise)
        assert reassembler.held_bytes <= 3000


def test_two_messages_may_interleave() -> None:
    one, two = pattern(95), pattern(96)
    frames = [
        f for pair in zip(chunks.split(one, 1, LIMIT), chunks.split(two, 2, LIMIT), strict=True) for f in pair
    ]
    assert [message.payload for message in feed(Reassembler(), frames)] == [one, two]


def test_the_same_transfer_number_on_two_topics_is_two_messages() -> None:
    reassembler = Reassembler()
    frames = chunks.split(pattern(50), 1, LIMIT)
    assert len(feed(reassembler, frames, "a")) == len(feed(reassembler, frames, "b")) == 1


def test_a_late_duplicate_does_not_start_the_message_again() -> None:
    reassembler = Reassembler()
    frames = chunks.split(pattern(50), 1, LIMIT)
    feed(reassembler, frames)
    assert feed(reassembler, frames) == []
    assert reassembler.held_bytes == 0


GOOD = chunks.split(pattern(50), 1, LIMIT)[0]


@pytest.mark.parametrize(
    ("frame", "detail"),
    [
        pytest.param(b"\x97\x01\x00", "a chunk of 3 bytes holds no part", id="magic only"),
        pytest.param(altered(GOOD, 6, b""), f"a chunk of {HEADER_BYTES} bytes holds no part", id="no part"),
        pytest.param(GOOD[:-1], "a chunk that promises 10 bytes and has another length", id="cut short"),
        pytest.param(GOOD + b"x", "a chunk that promises 10 bytes and has another length", id="too long"),
        pytest.param(altered(GOOD, 3, 5), "chunk 5 of 5", id="index = count"),
        pytest.param(altered(GOOD, 4, 0), "chunk 0 of 0", id="of none"),
        pytest.param(altered(GOOD, 4, 1), "chunk 0 of 1", id="of one"),
        pytest.param(
            b"\x97\x01\x00" + bytes(40), "a chunk header with other msgpack types", id="other types"
        ),
        pytest.param(b"\x96" + GOOD[1:], "a chunk header with other msgpack types", id="other magic"),
    ],
)
def test_a_broken_chunk_is_refused(frame: bytes, detail: str) -> None:
    reassembler = Reassembler()
    with pytest.raises(WireError) as caught:
        reassembler.add(TOPIC, frame)
    assert caught.value.reason == "malformed"
    assert str(caught.value) == f"malformed: {detail}"
    assert reassembler.held_bytes == 0


@pytest.mark.parametrize(("position", "value"), [(4, 9), (5, 1)], ids=["count", "crc32"])
def test_a_chunk_that_contradicts_the_others_is_refused(position: int, value: int) -> None:
    reassembler = Reassembler()
    frames = chunks.split(pattern(50), 1, LIMIT)
    reassembler.add(TOPIC, frames[0])
    with pytest.raises(WireError, match=r"^inconsistent: a chunk that differs from others of its message$"):
        reassembler.add(TOPIC, altered(frames[1], position, value))
    assert len(feed(reassembler, frames[1:])) == 1  # the message itself does not suffer


def test_a_damaged_part_is_found_by_the_checksum() -> None:
    reassembler = Reassembler()
    frames = chunks.split(pattern(50), 1, LIMIT)
    with pytest.raises(WireError, match=r"^crc: a message whose chunks do not add up to its checksum$"):
        feed(reassembler, [altered(frames[0], 6, bytes(10)), *frames[1:]])
    assert reassembler.held_bytes == 0


def test_a_message_above_the_limit_is_given_up() -> None:
    reassembler = Reassembler(ReassemblyLimits(message_bytes=45))
    with pytest.raises(WireError, match=r"^too-large: a message above 45 bytes$"):
        feed(reassembler, chunks.split(pattern(50), 1, LIMIT))
    assert reassembler.held_bytes == 0


def test_a_message_as_long_as_the_limit_is_taken() -> None:
    reassembler = Reassembler(ReassemblyLimits(message_bytes=50))
    assert len(feed(reassembler, chunks.split(pattern(50), 1, LIMIT))) == 1


def test_the_oldest_unfinished_message_of_a_topic_gives_way() -> None:
    reassembler = Reassembler(ReassemblyLimits(transfers_per_topic=2))
    started = [chunks.split(pattern(50), transfer, LIMIT) for transfer in range(3)]
    feed(reassembler, [frames[0] for frames in started])
    feed(reassembler, started[0][:1], "another")
    assert reassembler.evicted == 1
    assert len(feed(reassembler, started[1][1:])) == len(feed(reassembler, started[2][1:])) == 1
    assert feed(reassembler, started[0][1:]) == []


def test_every_message_that_gave_way_is_counted() -> None:
    reassembler = Reassembler(ReassemblyLimits(transfers_per_topic=1))
    started = [chunks.split(pattern(50), transfer, LIMIT) for transfer in range(4)]
    feed(reassembler, [frames[0] for frames in started])
    assert reassembler.evicted == 3
    assert len(feed(reassembler, started[3][1:])) == 1
    assert reassembler.held_bytes == 0


def test_late_duplicates_are_known_for_the_topics_that_finished_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_MAX_FINISHED", 2)
    reassembler = Reassembler()
    first, second = (chunks.split(pattern(50), transfer, LIMIT) for transfer in (1, 2))
    for frames, topic in ((first, "a"), (first, "b"), (second, "a"), (first, "c")):
        assert len(feed(reassembler, frames, topic)) == 1
    assert feed(reassembler, second, "a") == feed(reassembler, first, "c") == []
    assert len(feed(reassembler, first, "b")) == 1  # of three topics, it was the one without news for longest


def test_unfinished_messages_may_fill_their_room_to_the_last_byte() -> None:
    frames = chunks.split(pattern(50), 1, LIMIT)
    alone = Reassembler()
    feed(alone, frames[:1])
    reassembler = Reassembler(ReassemblyLimits(total_bytes=2 * alone.held_bytes))
    for topic in ("a", "b"):
        feed(reassembler, frames[:1], topic)
    assert (reassembler.evicted, reassembler.held_bytes) == (0, 2 * alone.held_bytes)
    feed(reassembler, frames[:1], "c")
    assert (reassembler.evicted, reassembler.held_bytes) == (1, 2 * alone.held_bytes)


def test_all_unfinished_messages_together_are_bounded() -> None:
    reassembler = Reassembler(ReassemblyLimits(total_bytes=5000))
    frame = chunks.split(pattern(50), 1, LIMIT)[0]
    for number in range(100):
        feed(reassembler, [frame], f"topic-{number}")
        assert reassembler.held_bytes <= 5000
    assert reassembler.evicted == 91  # nine fit: each has a part of 10 bytes and twice 256 bytes around it


def test_oversize_messages_are_refused_before_they_are_sent() -> None:
    with pytest.raises(ValueError, match="at most"):
        chunks.split(bytes(chunks.MAX_MESSAGE_BYTES + 1), 1)
    with pytest.raises(ValueError, match="too small"):
        chunks.split(pattern(70_000), 1, HEADER_BYTES + 1)
    with pytest.raises(ValueError, match="too small"):
        chunks.frame_sizes(LIMIT + 1, HEADER_BYTES)


def test_the_largest_message_and_the_smallest_packets_are_possible() -> None:
    assert sum(chunks.frame_sizes(chunks.MAX_MESSAGE_BYTES)) > chunks.MAX_MESSAGE_BYTES
    assert chunks.frame_sizes(2**16 - 1, HEADER_BYTES + 1) == [HEADER_BYTES + 1] * (2**16 - 1)
    with pytest.raises(ValueError, match="too small"):
        chunks.frame_sizes(2**16, HEADER_BYTES + 1)


LENGTHS = [2**7, 2**14, 2**21]  # where MQTT's field for the remaining length takes one byte more
OVERHEADS = [
    2 + len(topic) + 2 for topic in (b"a", TOPIC.encode(), "fl/\N{GREEK SMALL LETTER MU}/up".encode())
]


@pytest.mark.parametrize(
    "payload_bytes",
    [
        0,
        1,
        100,
        70_000,
        *(limit - less + more for limit in LENGTHS for less in OVERHEADS for more in (-1, 0)),
    ],
)
@pytest.mark.parametrize("topic", ["a", TOPIC, "fl/\N{GREEK SMALL LETTER MU}/up"])
@pytest.mark.parametrize("qos", [0, 1])
def test_packet_size_is_that_of_an_independent_encoder(topic: str, payload_bytes: int, qos: int) -> None:
    packet = PublishPacket.build(
        topic, bytes(payload_bytes), qos or None, dup_flag=False, qos=qos, retain=False
    )
    assert chunks.mqtt_packet_bytes(topic, payload_bytes, qos) == len(packet.to_bytes())


def test_packet_size_above_what_mqtt_can_say_is_an_error() -> None:
    most = chunks.MAX_REMAINING_LENGTH
    assert chunks.mqtt_packet_bytes("a", most - 5) == 1 + 4 + most
    with pytest.raises(ValueError, match=f"packet of {most + 1} bytes"):
        chunks.mqtt_packet_bytes("a", most - 4)
    with pytest.raises(ValueError, match="at most 268435455"):
        chunks.mqtt_packet_bytes("a", 2**28)


def test_wire_bytes_is_the_sum_over_the_frames() -> None:
    frames = chunks.split(pattern(500), 1, LIMIT)
    assert chunks.wire_bytes(TOPIC, 500, LIMIT) == sum(
        chunks.mqtt_packet_bytes(TOPIC, len(f)) for f in frames
    )
    assert chunks.wire_bytes(TOPIC, 500) == chunks.mqtt_packet_bytes(TOPIC, 500)
