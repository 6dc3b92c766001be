"""Targets of several outputs."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from broker.codecs.coding.places import decode_number, encode_number
from broker.codecs.targets.base import Array, Output, Targets
from broker.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Several(Targets):
    """Several outputs, each of its own kind; their targets are a dict of arrays.

    Bytes: each output's, one after the other; before all but the last its length, see `encode_number`.

    Attributes:
        outputs: the kind of each, by its name.
    """

    outputs: Mapping[str, Output]

    def __post_init__(self) -> None:
        if not self.outputs or any(isinstance(kind, Several) for kind in self.outputs.values()):
            raise ValueError("targets must name the kind of each output, and each is of one kind")

    @property
    def sizes(self) -> set[int]:
        """See Targets."""
        return {size for kind in self.outputs.values() for size in kind.sizes}

    def encode(self, values: Mapping[str, Array]) -> bytes:
        """See Targets."""
        *parts, last = (kind.encode(values[name]) for name, kind in self.outputs.items())
        return b"".join(encode_number(len(part)) + part for part in parts) + last

    def decode(self, data: bytes, n: int) -> dict[str, Array]:
        """See Targets."""
        values: dict[str, Array] = {}
        for name, kind in self.outputs.items():
            is_last = len(values) == len(self.outputs) - 1
            size, data = (len(data), data) if is_last else decode_number(data)
            if size > len(data) or not kind.fits(size, n):
                raise WireError("shape", f"{min(size, len(data))} bytes for {n} targets of {name}")
            values[name], data = kind.decode(data[:size], n), data[size:]
        return values

    def size_bytes(self, n: int) -> int:
        """See Targets."""
        *sizes, last = (kind.size_bytes(n) for kind in self.outputs.values())
        return sum(len(encode_number(size)) + size for size in sizes) + last

    def example(self, n: int, rng: np.random.Generator) -> dict[str, Array]:
        """See Targets."""
        return {name: np.asarray(kind.example(n, rng)) for name, kind in self.outputs.items()}

    def wire_parts(self) -> list[list[str | int]]:
        """See Targets."""
        return [[name, *kind.wire_parts()[0][1:]] for name, kind in self.outputs.items()]
