"""Targets that are classes: one of them for each value, or any of them for each sample."""

from dataclasses import dataclass

import numpy as np

from broker.codecs.coding.neighbour_coder import MOST_CODES, decode_codes, encode_codes
from broker.codecs.coding.places import decode_places, encode_places
from broker.codecs.targets.base import Array, Output, check_shape
from broker.wire.bits import MAX_BITS, bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

MOST_CLASSES = 2**24
WORD = 2**MAX_BITS - 1


@dataclass(frozen=True, slots=True)
class Labels(Output):
    """Each value is a class: one label, or a sequence or map of labels.

    Plain: integers below `levels`, packed; of more than 16 bits, the lower 16 bits of all, then the upper
    ones. Coded: see `coding.neighbour_coder`, with q = s and the last dimension as the width; only for
    targets of more than one value, and of fewer than 65,536 levels.

    Attributes:
        classes: how many, 1 to 16,777,216; targets are integers from 0 to classes - 1.
        shape: of one sample's target; () for one label.
        ignore: a further integer that targets may be, such as -100, for labels that the loss leaves out.
    """

    classes: int
    shape: tuple[int, ...] = ()
    ignore: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= MOST_CLASSES - (self.ignore is not None):
            raise ValueError(f"classes must be 1 to {MOST_CLASSES}, not {self.classes}")
        if self.ignore is not None and 0 <= self.ignore < self.classes:
            raise ValueError(f"ignore must be none of the classes, such as -100, not {self.ignore}")
        check_shape(self.shape)

    @property
    def levels(self) -> int:
        """How many integers travel: `classes` itself stands for `ignore`."""
        return self.classes + (self.ignore is not None)

    @property
    def sizes(self) -> set[int]:
        """See Targets."""
        return {self.classes, *self.shape}

    @property
    def has_one_class(self) -> bool:
        """See Targets."""
        return self.shape == () and self.ignore is None

    def encode(self, values: Array) -> bytes:
        """See Targets."""
        if self.ignore is not None:
            values = np.where(values == self.ignore, self.classes, values)
        bits, words = bits_for(self.levels), (values & WORD).astype(np.uint16)
        if bits > MAX_BITS:
            return pack(words, MAX_BITS) + pack((values >> MAX_BITS).astype(np.uint16), bits - MAX_BITS)
        codes, packed = words, pack(words, bits)
        if not self._may_be_coded(len(codes)):
            return packed
        coded = encode_codes(codes.reshape(len(codes), self.s), self.levels, self.shape[-1])
        return min(packed, coded, key=len)

    def decode(self, data: bytes, n: int) -> Array:
        """See Targets."""
        if self._may_be_coded(n) and len(data) < self.size_bytes(n):
            codes: Array = decode_codes(data, (n, self.s), self.levels, self.shape[-1], 0)[0]
        else:
            codes = self._unpack(data, n * self.s)
        if codes.size and int(codes.max()) >= self.levels:
            raise WireError("range", f"target {codes.max()} of {self.classes} classes")
        labels = codes.astype(np.int64).reshape(n, *self.shape)
        return labels if self.ignore is None else np.where(labels == self.classes, self.ignore, labels)

    def size_bytes(self, n: int) -> int:
        """See Targets."""
        return packed_bytes(n * self.s, bits_for(self.levels))

    def fits(self, size_bytes: int, n: int) -> bool:
        """See Targets."""
        plain = self.size_bytes(n)
        return size_bytes == plain or (self._may_be_coded(n) and size_bytes < plain)

    def example(self, n: int, rng: np.random.Generator) -> Array:
        """See Targets."""
        return rng.integers(0, self.classes, (n, *self.shape))

    def wire_parts(self) -> list[list[str | int]]:
        """See Targets."""
        return [["", "labels", self.levels, self.s]]

    def _unpack(self, data: bytes, count: int) -> Array:
        bits = bits_for(self.levels)
        if bits <= MAX_BITS:
            return unpack(data, bits, count)
        end = packed_bytes(count, MAX_BITS)
        upper = unpack(data[end:], bits - MAX_BITS, count).astype(np.int64)
        return upper << MAX_BITS | unpack(data[:end], MAX_BITS, count)

    def _may_be_coded(self, n: int) -> bool:
        return self.s > 1 and 0 < n * self.s <= MOST_CODES and self.levels <= WORD


@dataclass(frozen=True, slots=True)
class Tags(Output):
    """Any of some tags for each sample (multi-label): shape (count,), 1 for a tag that it has and 0 else.

    Plain: a bit for each value, sample by sample. Coded: the places of the ones, tag by tag, see
    `coding.places`; tags of a device's samples repeat, so that the ones of a tag lie together.

    Attributes:
        count: how many tags there are.
    """

    count: int

    def __post_init__(self) -> None:
        check_shape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """See Output."""
        return (self.count,)

    @property
    def sizes(self) -> set[int]:
        """See Targets."""
        return {self.count}

    def encode(self, values: Array) -> bytes:
        """See Targets."""
        coded = encode_places(np.flatnonzero(values.T))
        return min(pack(values.astype(np.uint8), 1), coded, key=len)

    def decode(self, data: bytes, n: int) -> Array:
        """See Targets."""
        total = n * self.count
        if len(data) >= self.size_bytes(n):
            return unpack(data, 1, total).astype(np.int64).reshape(n, self.count)
        places, rest = decode_places(data, total)
        if rest:
            raise WireError("shape", f"{len(rest)} bytes too many for {n} targets")
        values = np.zeros((n, self.count), np.int64)
        values[places % n, places // n] = 1
        return values

    def size_bytes(self, n: int) -> int:
        """See Targets."""
        return packed_bytes(n * self.count, 1)

    def example(self, n: int, rng: np.random.Generator) -> Array:
        """See Targets."""
        return (rng.random((n, self.count)) < min(0.5, 3 / self.count)).astype(np.int64)

    def wire_parts(self) -> list[list[str | int]]:
        """See Targets."""
        return [["", "tags", 2, self.s]]
