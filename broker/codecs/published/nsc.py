"""Activations as a product of two thin matrices, of as high a rank as they ask for (NSC-SL)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from broker.codecs.base import Codec, Matrix, check_divides
from broker.codecs.coding.factors import (
    MAX_RANK,
    decode_factors,
    directions,
    factors_bytes,
    fitted,
    product,
)
from broker.codecs.coding.row_values import check_bits, quantized
from broker.codecs.pq import scale_to_safe_exponent
from broker.wire.errors import WireError

MAX_COLUMNS = 2**20
SWEEPS = 2


@dataclass(frozen=True, slots=True)
class Nsc(Codec):
    """NSC-SL: low rank within a budget, factors fitted in turns (Fang et al. 2026, arXiv 2602.02696).

    The values of a batch are a matrix of c columns, such as the channels of a feature map, channels last,
    with a line for each place of each sample: N = n d / c. It is near to a product of rank r. r is the
    smallest rank that has the share `energy` of its squares, but at most `rank`, which is the budget.

    Equation: y = U V with U, shape (N, r), and V, shape (r, c). U has the directions of the largest singular
    values (see `LowRank`), rounded. V is the best one for that U, rounded; then U is the best one for that V,
    and so on. So each makes up for what rounding the other has lost; of all pairs that with the least error
    is sent.

    We could read no more of the paper than its abstract and introduction, which speak of "alternating
    orthogonal iteration with residual feedback"; the above is how we read it. What one batch has lost is not
    added to the next: its rows are other samples.

    Bytes: r; the columns of U as r rows of N values, then V as r rows of c, each of b bits (see
    `coding.row_values`). Of a matrix of zeros r is 0.
    Size: at most that of r = rank.

    Attributes:
        codec: Name in scenarios and on the wire.
        columns: c, a divisor of d; 0 for d, so that each sample is a line.
        rank: The largest r, 1 to 64.
        energy: Above 0 and at most 1; 1 for r = rank always.
        bits: b, of a value: 4, 8, 16 or 32.
    """

    codec: Literal["nsc"] = "nsc"
    columns: int = 0
    rank: int = 4
    energy: float = 0.95
    bits: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.columns <= MAX_COLUMNS:
            raise ValueError(f"columns must be 0 to {MAX_COLUMNS}, not {self.columns}")
        if not 1 <= self.rank <= MAX_RANK:
            raise ValueError(f"rank must be 1 to {MAX_RANK}, not {self.rank}")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must be above 0 and at most 1, not {self.energy}")
        check_bits(self.bits)

    def check(self, d: int) -> None:
        """See `Codec.check`."""
        if self.columns:
            check_divides("columns", self.columns, d)

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`."""
        lines, columns = self._shape(*x.shape)
        flat, exponent = scale_to_safe_exponent(x)
        if not flat.any():
            return bytes(1)
        values = flat.reshape(lines, columns)
        left = directions(values, self._most(lines, columns), rng)
        left = left[: self._rank(left, values)]
        best, least_error = b"", np.inf
        for _ in range(SWEEPS):
            sent = quantized(left, self.bits)
            best_right = fitted(sent.vectors(), values)
            right = quantized(best_right, self.bits)
            missed = values - product(sent.vectors(), right.vectors())
            if (error := float(np.vdot(missed, missed))) < least_error:
                scaled = quantized(np.ldexp(best_right, exponent), self.bits)
                best, least_error = bytes([len(left)]) + sent.to_bytes() + scaled.to_bytes(), error
            left = fitted(right.vectors(), values.T)
        return best

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        lines, columns = self._shape(n, d)
        if not payload:
            raise WireError("shape", f"no bytes for {n} x {d} in {self}")
        r, rest = payload[0], payload[1:]
        if r > self._most(lines, columns):
            raise WireError("range", f"a product of rank {r} in {self}")
        if len(rest) != factors_bytes(lines, columns, r, self.bits):
            raise WireError("shape", f"{len(payload)} bytes for a product of rank {r}, {n} x {d} in {self}")
        if not r:
            return np.zeros((n, d), np.float32)
        return decode_factors(rest, lines, columns, r, self.bits).reshape(n, d)

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; a payload of a lower rank is shorter."""
        lines, columns = self._shape(n, d)
        most = self._most(lines, columns)
        return 1 + factors_bytes(lines, columns, most, self.bits)

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)

    def _shape(self, n: int, d: int) -> tuple[int, int]:
        """Returns lines and columns of the matrix."""
        self.check(d)
        columns = self.columns or d
        return n * d // columns, columns

    def _most(self, lines: int, columns: int) -> int:
        return min(self.rank, lines, columns)

    def _rank(self, left: Matrix, values: Matrix) -> int:
        """Returns the smallest rank with the share `energy` of the squares, given directions of all ranks."""
        if self.energy >= 1:
            return len(left)
        along = left @ values / np.linalg.norm(left, axis=1, keepdims=True)
        shares = np.cumsum(np.square(along, dtype=np.float64).sum(axis=1)) / np.vdot(values, values)
        return min(int(np.count_nonzero(shares < self.energy)) + 1, len(left))
