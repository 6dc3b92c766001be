"""Targets in floating point; they travel as float32, the lowest byte first, so that no loss changes."""

from dataclasses import dataclass

import numpy as np

from broker.codecs.coding.places import decode_places, encode_places
from broker.codecs.targets.base import Array, Output, check_shape
from broker.wire.errors import WireError

SUM_TOLERANCE = 1e-3
"""The probabilities of a sample add up to 1 but for so much."""


@dataclass(frozen=True, slots=True)
class Numbers(Output):
    """Numbers to be predicted (regression): any finite float32.

    Attributes:
        shape: of one sample's target; () for one number.
    """

    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_shape(self.shape)

    @property
    def sizes(self) -> set[int]:
        """See Targets."""
        return {*self.shape}

    def encode(self, values: Array) -> bytes:
        """See Targets."""
        return values.astype("<f4").tobytes()

    def decode(self, data: bytes, n: int) -> Array:
        """See Targets."""
        if len(data) != self.size_bytes(n):
            raise WireError("shape", f"{len(data)} bytes for {n} targets of {self.s} numbers")
        values = np.frombuffer(data, "<f4").astype(np.float32)
        if not np.isfinite(values).all():
            raise WireError("not-finite", "a target is not finite")
        return values.reshape(n, *self.shape)

    def size_bytes(self, n: int) -> int:
        """See Targets."""
        return 4 * n * self.s

    def fits(self, size_bytes: int, n: int) -> bool:
        """See Targets."""
        return size_bytes == self.size_bytes(n)

    def example(self, n: int, rng: np.random.Generator) -> Array:
        """See Targets."""
        return rng.standard_normal((n, *self.shape)).astype(np.float32)

    def wire_parts(self) -> list[list[str | int]]:
        """See Targets."""
        return [["", "numbers", 0, self.s]]


@dataclass(frozen=True, slots=True)
class Probabilities(Output):
    """How likely each class is (soft labels): shape (classes,), each 0 to 1 and together 1.

    Plain: all of them. Coded: the places of those that are not 0, see `coding.places`, then these.

    Attributes:
        classes: how many.
    """

    classes: int

    def __post_init__(self) -> None:
        check_shape(self.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """See Output."""
        return (self.classes,)

    @property
    def sizes(self) -> set[int]:
        """See Targets."""
        return {self.classes}

    def encode(self, values: Array) -> bytes:
        """See Targets."""
        flat = values.astype("<f4").reshape(-1)
        places = np.flatnonzero(flat)
        return min(flat.tobytes(), encode_places(places) + flat[places].tobytes(), key=len)

    def decode(self, data: bytes, n: int) -> Array:
        """See Targets."""
        total, places, likely = n * self.classes, None, data
        if len(data) < self.size_bytes(n):
            places, likely = decode_places(data, total)
        if len(likely) != 4 * (total if places is None else places.size):
            raise WireError("shape", f"{len(data)} bytes for {n} targets of {self.classes} probabilities")
        values = np.zeros(total, np.float32)
        values[slice(None) if places is None else places] = np.frombuffer(likely, "<f4")
        probabilities = values.reshape(n, self.classes)
        if wrong := not_probabilities(probabilities):
            raise WireError("range", f"a target {wrong[1]}")
        return probabilities

    def size_bytes(self, n: int) -> int:
        """See Targets."""
        return 4 * n * self.s

    def example(self, n: int, rng: np.random.Generator) -> Array:
        """See Targets."""
        return rng.dirichlet(np.ones(self.classes), n).astype(np.float32)

    def wire_parts(self) -> list[list[str | int]]:
        """See Targets."""
        return [["", "probabilities", self.classes, self.s]]


def not_probabilities(values: Array) -> tuple[int, str] | None:
    """Returns the first row, of shape (n, classes), that holds no probabilities, and what it has instead."""
    outside = ~((values >= 0) & (values <= 1))  # NaN is not inside
    sums = np.where(outside, 0, values).sum(axis=1, dtype=np.float64)
    wrong = outside.any(axis=1) | ~(np.abs(sums - 1) <= SUM_TOLERANCE)
    if not wrong.any():
        return None
    row = int(wrong.argmax())
    if outside[row].any():
        return row, f"has the probability {values[row][outside[row]][0]:g}, each must be 0 to 1"
    return row, f"has probabilities that add up to {sums[row]:.6g}, they must add up to 1"
