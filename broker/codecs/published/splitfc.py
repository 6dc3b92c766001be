"""Columns that differ between samples, in as many levels as their ranges ask for (SplitFC)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.block_float16 import peak
from broker.codecs.coding.column_levels import decode_columns, encode_columns, least_bytes
from broker.codecs.coding.elias_fano import Positions
from broker.codecs.coding.row_set import decode_rows, encode_rows
from broker.wire.errors import WireError

MAX_BITS = 16
FEWER = 0.75
"""As long as not even the means of the columns fit, so much of them stays."""

Chances = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SplitFc(Codec):
    """SplitFC: dropout and quantization of columns (Oh, Lee, Brinton, Jeon 2023, arXiv 2307.10805).

    Dropout: of the d columns (features) D = keep d stay on average. With s_i the standard deviation of column
    i over the n rows and S the sum of all, it stays with probability p_i = D s_i / S. If that is above 1 for
    any, p_i = D (s_i + C) / (S + d C) with C = (D max s - S) / (d - D), which is 1 for the largest s. What
    stays is divided by p_i, so the mean of y is x but for rounding; the other columns are 0. With `random: 0`
    the D columns with the largest deviations stay, as they are: less error, but nothing of the others ever.

    Quantization: see `coding.column_levels`, with what `value_bits` leaves. If not even the means of the
    columns fit, those with the smallest deviations are dropped, too.

    A gradient in this codec has columns of its own. In the paper it has those of the activations.

    Bytes: which k columns stay (see `coding.row_set`); what is in them (see `coding.column_levels`).
    Size: at most value_bits n d / 8 bytes, and at least 1.

    Attributes:
        codec: Name in scenarios and on the wire.
        keep: D / d, above 0 and at most 1.
        value_bits: Bits of the payload for each of the n d values, also of those that are dropped; above 0,
            at most 16.
        random: 1 to drop at random, as the paper does; 0 to drop what deviates least.
    """

    codec: Literal["splitfc"] = "splitfc"
    keep: float = 0.1
    value_bits: float = 0.4
    random: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"keep must be above 0 and at most 1, not {self.keep}")
        if not 0 < self.value_bits <= MAX_BITS:
            raise ValueError(f"value_bits must be above 0 and at most {MAX_BITS}, not {self.value_bits}")
        if self.random not in (0, 1):
            raise ValueError(f"random must be 0 or 1, not {self.random}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:
        """See `Codec.encode`; what is sent must be below 2**126, since ranges are twice that."""
        peak(x)  # refuses what is not finite
        n, d = x.shape
        deviations = x.std(axis=0, dtype=np.float64)
        kept, chances = self._kept(deviations, rng)
        while kept.size and len(which := encode_rows(kept, d)) + least_bytes(kept.size) > self.size_bytes(
            n, d
        ):
            most = np.argsort(-deviations[kept], kind="stable")[: int(FEWER * kept.size)]
            kept, chances = kept[np.sort(most)], chances[np.sort(most)]
        if not kept.size:
            return encode_rows(kept, d)
        columns = (x[:, kept] / chances).T.astype(np.float32)
        return which + encode_columns(columns, self.size_bytes(n, d) - len(which))

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        kept, rest = decode_rows(payload, d)
        y = np.zeros((n, d), np.float32)
        if kept.size:
            y[:, kept] = decode_columns(rest, kept.size, n).T
        elif rest:
            raise WireError("shape", f"{len(rest)} bytes after no columns")
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; a payload may be shorter."""
        return max(1, int(self.value_bits * n * d / 8))

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)

    def _kept(self, deviations: Chances, rng: np.random.Generator) -> tuple[Positions, Chances]:
        """Returns the columns that stay, shape (k,), and with which probability each of them did."""
        wanted = max(1.0, self.keep * deviations.size)
        if not self.random:
            kept = np.sort(np.argsort(-deviations, kind="stable")[: round(wanted)])
            return kept, np.ones(kept.size)
        chances = _chances(deviations, wanted)
        kept = np.flatnonzero(rng.random(deviations.size) < chances)
        return kept, chances[kept]


def _chances(deviations: Chances, wanted: float) -> Chances:
    """Returns the probability with which each column stays, shape (d,); `wanted` of them do on average."""
    total, d = float(deviations.sum()), deviations.size
    if wanted >= d or total <= 0:
        return np.full(d, min(1.0, wanted / d))
    bias = max(0.0, (wanted * float(deviations.max()) - total) / (d - wanted))
    return np.minimum(1.0, wanted * (deviations + bias) / (total + d * bias))
