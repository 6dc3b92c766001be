import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.bits import bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError


def packed_one_by_one(values: list[int], bits: int) -> bytes:
    stream = sum(value << (bits * place) for place, value in enumerate(values))
    return stream.to_bytes(packed_bytes(len(values), bits), "little")


@given(bits=st.integers(1, 16), data=st.data())
def test_values_survive_and_lie_where_the_definition_says(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=70))
    packed = pack(np.array(values, np.uint16), bits)
    assert packed == packed_one_by_one(values, bits)
    unpacked = unpack(packed, bits, len(values))
    assert unpacked.tolist() == values
    assert unpacked.dtype == (np.uint8 if bits <= 8 else np.uint16)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 7, 8])
def test_bytes_pack_like_words(bits: int) -> None:
    values = np.arange(101, dtype=np.uint16) % (1 << bits)
    assert pack(values.astype(np.uint8), bits) == pack(values, bits)


def test_the_documented_example() -> None:
    assert pack(np.array([1, 2, 3], np.uint8), 3) == bytes([0xD1, 0x00])


def test_rows_are_packed_one_after_the_other_without_gaps() -> None:
    values = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    assert pack(values, 5) == pack(values.ravel(), 5)


def test_one_level_needs_no_bits_and_no_bytes() -> None:
    assert bits_for(1) == 0
    assert pack(np.zeros(9, np.uint8), 0) == b""
    assert unpack(b"", 0, 9).tolist() == [0] * 9


@pytest.mark.parametrize(
    ("levels", "bits"), [(2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (65536, 16)]
)
def test_bits_for_is_the_logarithm_rounded_up(levels: int, bits: int) -> None:
    assert bits_for(levels) == bits


@pytest.mark.parametrize(
    ("count", "bits", "size"), [(0, 5, 0), (1, 1, 1), (8, 1, 1), (9, 1, 2), (5760, 5, 3600)]
)
def test_packed_bytes_rounds_up(count: int, bits: int, size: int) -> None:
    assert packed_bytes(count, bits) == size


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="4 does not fit into 2 bits"):
        pack(np.array([0, 4], np.uint8), 2)
    with pytest.raises(ValueError, match="0 to 16 bits, not 17"):
        pack(np.array([0], np.uint16), 17)


@pytest.mark.parametrize("bits", range(17))
def test_a_wrong_length_is_refused(bits: int) -> None:
    right = packed_bytes(11, bits)
    for size in (right - 1, right + 1):
        if size >= 0:
            with pytest.raises(WireError, match="shape"):
                unpack(bytes(size), bits, 11)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 11])
def test_pad_bits_that_are_not_zero_are_refused(bits: int) -> None:
    packed = bytearray(pack(np.zeros(3, np.uint8), bits))
    packed[-1] |= 0x80
    with pytest.raises(WireError, match="malformed"):
        unpack(bytes(packed), bits, 3)
