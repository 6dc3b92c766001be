"""Several samples added up into one, each bound to a key of its own (C3-SL)."""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Codec, Matrix
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes, peak
from broker.codecs.coding.row_values import check_bits, quantized, read_rows, rows_bytes
from broker.wire.errors import WireError

MAX_RATIO = 256
MAX_KEYS = 2**32 - 1

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class C3(Codec):
    """C3-SL: circular convolution with keys, and superposition (Hsieh, Chuang, Wu 2022, arXiv 2207.12397).

    Each R rows of a batch become one: s = sum over j of k_j (*) (x_j - m_j), with (*) the circular
    convolution, m_j the mean of the row, and a key k_j of d normal values, of length 1, for the j-th row of
    every R. The receiver takes a row out with the circular correlation, y_j = m_j + k_j (.) s: x_j and, as
    noise, what is left of all rows. The noise is large, since keys are nearly but not wholly orthogonal:
    |y - x|^2 is about R |x - m|^2. The mean of y over all keys is x. Both sides make the keys from a number
    that they know. The last rows may be fewer than R.

    For gradients the same codec with the same keys and R is what the chain rule asks for, but for the means:
    the gradient at s is the sum over j of k_j (*) g_j, and that at x_j is its correlation with k_j.

    The rules are those of the authors' code. It sends s in float32; here it may have fewer bits. It takes
    out the means only at one of its cuts, and sends none; with activations above 0 nothing is learned so.

    Bytes: halves of the n means (see `coding.block_float16`); the ceil(n / R) sums as rows of b bits (see
    `coding.row_values`).
    Key j: from SHAKE-128 of `keys` and j, 4 bytes each, come d numbers a of 4 bytes (one more if d is odd),
    all little-endian; u = (a + 1/2) / 2**32; two of them, u and v, give the values sqrt(-2 ln u) cos(2 pi v)
    and sqrt(-2 ln u) sin(2 pi v) (Box and Muller 1958); then the key is brought to length 1.

    Attributes:
        codec: Name in scenarios and on the wire.
        ratio: R, rows that become one, 1 to 256.
        bits: b, of a value: 4, 8, 16 or 32.
        keys: Which keys, 0 to 2**32 - 1.
    """

    codec: Literal["c3"] = "c3"
    ratio: int = 16
    bits: int = 16
    keys: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.ratio <= MAX_RATIO:
            raise ValueError(f"ratio must be 1 to {MAX_RATIO}, not {self.ratio}")
        check_bits(self.bits)
        if not 0 <= self.keys <= MAX_KEYS:
            raise ValueError(f"keys must be 0 to {MAX_KEYS}, not {self.keys}")

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        n, d = x.shape
        peak(x)  # refuses what is not finite
        means = encode_halves(x.mean(axis=1, dtype=np.float64).astype(np.float32))
        sums = np.zeros((self._sums(n), d))
        with np.errstate(over="ignore", invalid="ignore"):  # refused below
            centred = x - decode_halves(means, n)[:, None]
            for j in range(min(self.ratio, n)):
                spectrum = np.fft.rfft(_key(self.keys, j, d))
                for number, row in enumerate(centred[j :: self.ratio]):
                    sums[number] += np.fft.irfft(spectrum * np.fft.rfft(row), d)
            return means + quantized(sums.astype(np.float32), self.bits).to_bytes()

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        means = decode_halves(payload, n)
        sums = read_rows(payload[halves_bytes(n) :], self._sums(n), d, self.bits).vectors()
        y = np.empty((n, d), np.float32)
        for j in range(min(self.ratio, n)):
            spectrum = np.fft.rfft(_key(self.keys, j, d)).conj()
            for row in range(j, n, self.ratio):
                unbound = np.fft.irfft(spectrum * np.fft.rfft(sums[row // self.ratio]), d)
                with np.errstate(over="ignore"):
                    y[row] = means[row] + unbound
        if not np.isfinite(y).all():
            raise WireError("not-finite", "a correlation")
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`."""
        return halves_bytes(n) + rows_bytes(self._sums(n), d, self.bits)

    def _sums(self, n: int) -> int:
        return -(-n // self.ratio)


def _key(keys: int, j: int, d: int) -> Vector:
    """Returns key j, shape (d,)."""
    seed = keys.to_bytes(4, "little") + j.to_bytes(4, "little")
    drawn = np.frombuffer(hashlib.shake_128(seed).digest(4 * (d + d % 2)), "<u4")
    u, v = ((drawn + 0.5) / 2.0**32).reshape(-1, 2).T
    pairs = np.sqrt(-2 * np.log(u)) * np.array([np.cos(2 * np.pi * v), np.sin(2 * np.pi * v)])
    key: Vector = pairs.T.reshape(-1)[:d]
    return key / np.linalg.norm(key)
