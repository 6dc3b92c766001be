"""What is fuzzed: each target takes bytes and lets nothing out but AssertionError, for a broken promise.

A target reads its first bytes as choices (which codec, which shape) and the rest as what a stranger sends.
Lengths are made right where random ones would only ever fail the first check, to reach the code behind it.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from broker.codecs import (
    C3,
    Codec,
    CodedPq,
    CodewordMean,
    Codewords,
    Float16,
    Float32,
    Int2,
    Int4,
    Int8,
    LowRank,
    Nsc,
    Pq,
    RandomTopK,
    SampleMean,
    SlFac,
    SplitFc,
    TopK,
    TouchedRows,
    codec_from_wire,
    codec_to_wire,
    decode_activations,
    decode_gradient,
    decode_update,
    gradient_codec_from_wire,
)
from broker.codecs.codeword_gradient import LARGEST_AT_CUT, LARGEST_PARAMETER
from broker.codecs.coding.neighbour_coder import decode_codes
from broker.codecs.foretold.coder import decode_foretold
from broker.codecs.targets import Labels, Numbers, Probabilities, Several, Tags, Targets
from broker.wire import chunks, messages, packing, topics
from broker.wire.chunks import Reassembler, ReassemblyLimits
from broker.wire.errors import WireError

OVERHEAD_BYTES = 64_000
"""What small inputs may take: the interpreter's own objects, an error's text."""

MODEL_BYTES = 1_000_000
"""What counting 64 codes in 256 contexts may take, whatever the message."""
CHOICES = 5

CODECS: list[Codec] = [
    Float32(),
    Float16(),
    Int8(),
    Int4(),
    Int2(),
    TopK(fraction=0.1),
    TopK(fraction=0.6),
    RandomTopK(fraction=0.2),
    SplitFc(keep=0.5, value_bits=3.0),
    SplitFc(keep=1.0, value_bits=9.0),
    TouchedRows(bits=4),
    TouchedRows(bits=16),
    LowRank(rank=2, bits=8),
    C3(ratio=4, bits=8),
    SampleMean(subvectors=4, rank=3, bits=4),
    C3(ratio=16, bits=16),
    SlFac(channels=4, width=2),
    SlFac(channels=1, energy=0.6, most_bits=4, least_bits=2),
    Nsc(columns=8, rank=3),
    Nsc(rank=2, bits=16),
    Pq(subvectors=4, groups=1, centroids=2),
    Pq(subvectors=4, groups=2, centroids=5),
    Pq(subvectors=8, groups=8, centroids=256),
    Pq(subvectors=2, groups=1, centroids=1),
    CodedPq(subvectors=4, centroids=3, width=2),
    CodedPq(subvectors=8, centroids=64, width=8),
    CodedPq(subvectors=4, centroids=20, rank=2),
]
MOST_VALUES = 64  # of a target of each kind below
KINDS: list[Targets] = [
    Labels(10),
    Labels(4, ignore=-100),
    Labels(21, (8, 8), ignore=255),
    Numbers((2,)),
    Tags(60),
    Probabilities(12),
    Several({"a": Labels(3), "b": Tags(40), "c": Numbers()}),
]
SUBVECTORS = 8  # every row has a multiple of so many values, and each codec above divides it


@contextmanager
def bounded_memory(most_bytes: int) -> Iterator[None]:
    """Hold the block to a peak of Python and numpy memory, if tracemalloc runs."""
    if not tracemalloc.is_tracing():
        yield
        return
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    yield
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= most_bytes, f"{peak - before} bytes where {most_bytes} are allowed"


def message(data: bytes) -> None:
    """A message is decoded, or refused; what is decoded is encoded to a message of the same meaning."""
    with bounded_memory(OVERHEAD_BYTES + 4 * len(data)):
        try:
            read = packing.decode(data)
        except WireError:
            return
    again = packing.encode(read)
    assert packing.decode(again) == read
    assert packing.encoded_bytes(read) == len(again)


def codec_name(data: bytes) -> None:
    """Codecs in a message are built from their parameters, or refused."""
    try:
        read = packing.decode(data)
    except WireError:
        return
    if not isinstance(read, messages.Assignment):
        return
    for parts in (*read.codecs, *read.features):
        try:
            codec = codec_from_wire(parts)
            number, *parameters = codec_to_wire(codec)
            assert parameters == parts[1:]
            assert parts[0] in (number, codec.codec)
            gradient_codec_from_wire(parts, codec)
        except WireError:
            pass


def topic(data: bytes) -> None:
    """A topic is split, or refused; what is accepted is one of the names that this side makes."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    try:
        parts = topics.parse(text)
    except WireError:
        return
    kind = {"up": "u", "down": "d"}.get(parts.kind, parts.kind)
    levels = ["fl", str(parts.version), parts.run, kind, *([parts.client] if parts.client else [])]
    assert text == "/".join(levels) or (kind == "watch" and text.startswith("/".join((*levels, ""))))


def reassembly(data: bytes) -> None:
    """Chunks in any order, with anything wrong about them, never take more memory than the limits say.

    Each five bytes are one packet: which transfer, which of its chunks, and one byte that is changed.
    """
    limits = ReassemblyLimits(message_bytes=400, transfers_per_topic=2, total_bytes=4_000)
    reassembler = Reassembler(limits)
    fed = told = 0
    for first in range(0, len(data) - 4, 5):
        number, index, place, value, kind = data[first : first + 5]
        whole = bytes([number % 7]) * (100 + 90 * (number % 5))
        frames = chunks.split(whole, number % 5, chunks.HEADER_BYTES + 50)
        packet = bytearray(frames[index % len(frames)])
        if kind & 1:
            packet[place % len(packet)] ^= value
        if kind & 2:
            packet = packet[: place % len(packet)]
        if kind & 4:
            packet += data[first : first + 5]
        if not chunks.is_chunk(bytes(packet)):
            continue
        name = f"t{kind >> 6}"
        fed += chunks.mqtt_packet_bytes(name, len(packet))
        try:
            joined = reassembler.add(name, bytes(packet))
        except WireError:
            joined = None
        told += sum(reassembler.take_lost().values()) + (joined.wire_bytes if joined else 0)
        assert reassembler.held_bytes <= limits.total_bytes
        assert joined is None or len(joined.payload) <= limits.message_bytes
        assert told <= fed


def raw_chunk(data: bytes) -> None:
    """A single packet of any bytes is a chunk or refused."""
    packet = b"\x97\x01\x00" + data
    with bounded_memory(OVERHEAD_BYTES + 4 * len(packet)):
        try:
            chunks.parse(packet)
            Reassembler().add("t", packet)
        except WireError:
            pass


def codec(data: bytes) -> None:
    """Every codec decodes to bounded numbers of the right shape, or refuses."""
    if len(data) < 4:
        return
    which, n, d, how = data[:4]
    chosen, n, d, payload = CODECS[which % len(CODECS)], 1 + n % 20, SUBVECTORS * (1 + d % 32), data[4:]
    if how & 1:
        size = chosen.size_bytes(n, d)
        payload = payload[:size] + bytes(size - len(payload[:size]))
    allowed = OVERHEAD_BYTES + 4 * max(len(payload), 4 * n * d) + MODEL_BYTES * isinstance(chosen, CodedPq)
    with bounded_memory(allowed):
        try:
            z, codewords = decode_activations(chosen, payload, n, d)
        except WireError:
            codewords = None
        else:
            assert z.shape == (n, d)
            assert z.dtype == np.float32
            assert np.abs(z).max() <= LARGEST_AT_CUT
    if codewords is not None:
        _means(payload, codewords, n, d)
    with bounded_memory(allowed):
        try:
            change = decode_update(chosen, payload, d)
        except WireError:
            return
        assert change.shape == (d,)
        assert np.abs(change).max() <= LARGEST_PARAMETER


def _means(payload: bytes, codewords: Codewords, n: int, d: int) -> None:
    size = Int8().size_bytes(*codewords.book.shape)
    for codec, given in (
        (CodewordMean(), payload[:size].ljust(size, b"\1")),
        (CodewordMean(rank=1), payload),
    ):
        try:
            gradient = decode_gradient(codec, given, codewords, n, d)
        except WireError:
            continue
        assert gradient.shape == (n, d)


def entropy_coded(data: bytes) -> None:
    """Entropy-coded codes are read, whatever the shape and the levels, or refused."""
    if len(data) < CHOICES:
        return
    n, q, levels, width, seed_bytes = (
        1 + data[0] % 20,
        1 + 4 * data[1],
        1 << data[2] % 17,
        1 + data[3],
        data[4] % 32,
    )
    coded = data[CHOICES:]
    with bounded_memory(OVERHEAD_BYTES + 4 * (len(coded) + 4 * n * q) + MODEL_BYTES):
        try:
            codes, seed = decode_codes(coded, (n, q), levels, width, seed_bytes)
        except WireError:
            return
    assert codes.shape == (n, q)
    assert int(codes.max()) < levels
    assert len(seed) == seed_bytes


def foretold(data: bytes) -> None:
    """Foretold codes are read, whatever the shape and the codewords, or refused."""
    if len(data) < CHOICES:
        return
    n, q, width, count, size = 1 + data[0] % 20, *(2 + each for each in data[1:4]), 1 + data[4]
    coded, count = data[CHOICES:], min(count, 256)
    codewords = np.random.default_rng(size).standard_normal((count, size)).astype(np.float32)
    with bounded_memory(OVERHEAD_BYTES + 16 * len(coded) + 200 * n * q + 3 * MODEL_BYTES):
        try:
            codes = decode_foretold(coded, (n, q), width, codewords)
        except WireError:
            return
    assert codes.shape == (n, q)
    assert int(codes.max()) < count


def targets(data: bytes) -> None:
    """Targets of every kind are read, or refused; what is read can be written and read again."""
    if len(data) < 3:
        return
    which, n, how = data[:3]
    kind, n, sent = KINDS[which % len(KINDS)], 1 + n % 20, data[3:]
    plain = kind.size_bytes(n)
    if how & 1:
        sent = sent[:plain].ljust(plain, b"\0")
    with bounded_memory(OVERHEAD_BYTES + 16 * 8 * (len(sent) + MOST_VALUES * n)):
        try:
            values = kind.decode(sent, n)
        except WireError:
            return
    again = kind.encode(values)
    assert kind.fits(len(again), n)
    assert len(again) <= plain
    np.testing.assert_equal(kind.decode(again, n), values)


TARGETS: list[Callable[[bytes], None]] = [
    message,
    codec_name,
    topic,
    reassembly,
    raw_chunk,
    codec,
    entropy_coded,
    foretold,
    targets,
]


def any_target(data: bytes) -> None:
    """Let the first byte choose the target."""
    if data:
        TARGETS[data[0] % len(TARGETS)](data[1:])
