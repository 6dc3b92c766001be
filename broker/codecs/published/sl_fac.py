"""Feature maps as frequencies, with more bits for those of more energy (SL-FAC)."""

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Codec, Matrix, check_divides
from broker.codecs.coding.block_float16 import decode_halves, encode_halves, halves_bytes
from broker.codecs.coding.digits import decode_digits, digits_bytes, encode_digits
from broker.codecs.pq import scale_to_safe_exponent
from broker.wire.bits import bits_for, pack, packed_bytes, unpack
from broker.wire.errors import WireError

MAX_CHANNELS = 2**20
MAX_LINE = 1024
"""The most places of a line or a column of a map."""
MAX_PLACES = 2**16
MAX_BITS = 8
LEAST_BITS = 2
"""A signed integer has at least so many; a part that is worth fewer is not sent."""
NIBBLE = 4
HALVING = 8
"""Steps of a part's largest magnitude from one power of two to the next."""
SPARE_BYTES = 3
"""What the integers of equal bits may take beyond their share: part of a word and of a byte."""

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SlFac(Codec):
    """SL-FAC: cosine transform, low and high frequencies, bits by energy (Lin et al. 2026, arXiv 2604.07316).

    A row is a feature map, channels last. Each channel's map goes through the orthonormal cosine transform
    (DCT-II), along its columns and its lines. Frequencies are in zigzag order, from low to high. Of each
    channel the first K that have the share `energy` of its squares over the batch are its low part, the
    others its high part. A part's coefficients travel as integers from -m to m = 2**(b - 1) - 1, between
    minus and plus its largest magnitude; y is the nearest. b follows from the part's mean square e: most_bits
    less half of log2(max e / e), rounded, with max e that of the part of most energy; but no fewer than
    least_bits. A part with b below 2 is not sent: it is 0.

    We could read no more of the paper than its abstract. The rule for b is ours: half a bit for each time
    that e doubles, which is best for normal values. So is that the samples of a batch share K and b.

    Bytes: halves of one value, the largest magnitude; K - 1 of each channel, packed in ceil(log2 places)
    bits; b of all low parts, then of all high ones, packed in 4 bits; of all parts with b above 0, in that
    order, a byte p: the part's largest magnitude counts as that of all times 2**(-p / 8); then, from the
    smallest b that occurs, the integers, plus m, of all frequencies with b: channel by channel, from low to
    high, and of each the n samples, as digits of 2 m + 1 levels (see `coding.digits`). Of a matrix of zeros
    only the halves.
    Size: at most that with most_bits everywhere; it depends on the values.

    Attributes:
        codec: Name in scenarios and on the wire.
        channels: Of a map, 1 to 2**20.
        width: Places in a line of the map, 1 to 1024; 1 for a series. channels times width divides d.
        energy: Share of the squares in the low part, above 0 and at most 1.
        most_bits: b of the part of most energy, 2 to 8.
        least_bits: 0 to most_bits.
    """

    codec: Literal["sl_fac"] = "sl_fac"
    channels: int = 1
    width: int = 1
    energy: float = 0.9
    most_bits: int = 8
    least_bits: int = 0

    def __post_init__(self) -> None:
        for name, most in (("channels", MAX_CHANNELS), ("width", MAX_LINE)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must be 1 to {most}, not {getattr(self, name)}")
        if not 0 < self.energy <= 1:
            raise ValueError(f"energy must be above 0 and at most 1, not {self.energy}")
        if not LEAST_BITS <= self.most_bits <= MAX_BITS:
            raise ValueError(f"most_bits must be {LEAST_BITS} to {MAX_BITS}, not {self.most_bits}")
        if not 0 <= self.least_bits <= self.most_bits:
            raise ValueError(f"least_bits must be 0 to most_bits ({self.most_bits}), not {self.least_bits}")

    def check(self, d: int) -> None:
        """See `Codec.check`."""
        line = self.channels * self.width
        check_divides("channels times width", line, d)
        if d // line > MAX_LINE or d // self.channels > MAX_PLACES:
            raise ValueError(
                f"a map may have {MAX_LINE} lines and {MAX_PLACES} places, not {d // line} and "
                f"{d // self.channels}: more channels or a larger width make it smaller"
            )

    def encode(self, x: Matrix, rng: np.random.Generator) -> bytes:  # noqa: ARG002 - nothing is random here
        """See `Codec.encode`."""
        n, d = x.shape
        self.check(d)
        flat, exponent = scale_to_safe_exponent(x)
        spectra = self._spectra(flat.reshape(n, d))
        largest = np.float64(np.abs(spectra).max())
        with np.errstate(over="ignore"):
            top = encode_halves(np.ldexp(largest, exponent).astype(np.float32).reshape(1), upwards=True)
        if largest == 0:
            return top
        lows, low, high = self._parts(np.square(spectra).sum(axis=2) / n)
        places = np.arange(spectra.shape[1])
        is_low = places < lows[:, None]
        magnitudes = np.abs(spectra).max(axis=2)
        peaks = np.stack([np.where(each, magnitudes, 0).max(axis=1) for each in (is_low, ~is_low)])
        bits = self._bits(np.stack([low, high]), peaks)
        received = np.ldexp(float(decode_halves(top, 1)[0]), -exponent)
        steps = np.zeros(peaks.shape, np.uint8)
        sent = bits > 0
        steps[sent] = np.clip(np.floor(HALVING * np.log2(received / peaks[sent])), 0, 255)
        of_place = np.where(is_low, bits[0][:, None], bits[1][:, None])
        scales = received * _shrunk(np.where(is_low, steps[0][:, None], steps[1][:, None]))
        header = (
            pack((lows - 1).astype(np.uint16), bits_for(places.size))
            + pack(bits, NIBBLE)
            + steps[sent].tobytes()
        )
        coded = b""
        for b in np.unique(bits[sent]):
            chosen, m = of_place == b, _largest(b)
            codes = np.clip(np.rint(spectra[chosen] * (m / scales[chosen])[:, None]), -m, m) + m
            coded += encode_digits(codes.astype(np.uint8).reshape(-1), 2 * m + 1)
        return top + header + coded

    def decode(self, payload: bytes, n: int, d: int) -> Matrix:
        """See `Codec.decode`."""
        self.check(d)
        if not self.fits(len(payload), n, d):
            raise WireError("shape", f"{len(payload)} bytes for {n} x {d} in {self}")
        largest, rest = float(decode_halves(payload, 1)[0]), payload[halves_bytes(1) :]
        if largest < 0 or (largest == 0) != (not rest):
            raise WireError("range", f"{len(rest)} bytes after a largest magnitude of {largest}")
        if not rest:
            return np.zeros((n, d), np.float32)
        channels, places = self.channels, d // self.channels
        ends = np.cumsum([packed_bytes(channels, bits_for(places)), packed_bytes(2 * channels, NIBBLE)])
        lows = unpack(rest[: ends[0]], bits_for(places), channels).astype(np.int64) + 1
        bits = unpack(rest[ends[0] : ends[1]], NIBBLE, 2 * channels).reshape(2, channels)
        if lows.max() > places or bits.max() > self.most_bits or (bits == 1).any():
            raise WireError("range", f"{lows.max()} of {places} places, or {bits.max()} bits")
        sent, coded = bits > 0, rest[ends[1] :]
        steps = np.zeros(bits.shape, np.uint8)
        if len(coded) < (count := np.count_nonzero(sent)):
            raise WireError("shape", f"{len(coded)} bytes for {count} parts")
        steps[sent], coded = np.frombuffer(coded, np.uint8, count), coded[count:]
        is_low = np.arange(places) < lows[:, None]
        of_place = np.where(is_low, bits[0][:, None], bits[1][:, None])
        scales = largest * _shrunk(np.where(is_low, steps[0][:, None], steps[1][:, None]))
        spectra = np.zeros((channels, places, n), np.float32)
        for b in np.unique(bits[sent]):
            chosen, m = of_place == b, _largest(b)
            total = int(np.count_nonzero(chosen)) * n
            size = digits_bytes(total, 2 * m + 1)
            codes = decode_digits(coded[:size], 2 * m + 1, total).reshape(-1, n)
            spectra[chosen] = (codes.astype(np.float32) - m) * (scales[chosen] / m).astype(np.float32)[
                :, None
            ]
            coded = coded[size:]
        if coded:
            raise WireError("shape", f"{len(coded)} bytes after the frequencies")
        with np.errstate(over="ignore", invalid="ignore"):
            y = self._maps(spectra)
        if not np.isfinite(y).all():
            raise WireError("not-finite", "a sum of frequencies")
        return y

    def size_bytes(self, n: int, d: int) -> int:
        """See `Codec.size_bytes`; a payload may be shorter."""
        self.check(d)
        header = packed_bytes(self.channels, bits_for(d // self.channels)) + 3 * self.channels
        groups = self.most_bits - LEAST_BITS + 1
        return (
            halves_bytes(1)
            + header
            + digits_bytes(n * d, 2 * _largest(self.most_bits) + 1)
            + SPARE_BYTES * groups
        )

    def fits(self, payload_bytes: int, n: int, d: int) -> bool:
        """See `Codec.fits`."""
        return 0 < payload_bytes <= self.size_bytes(n, d)

    def _parts(self, energies: Floats) -> tuple[Numbers, Floats, Floats]:
        """Returns K of each channel, and the mean squares of its low and its high part, each (channels,).

        Args:
            energies: mean squares of each frequency, shape (channels, places).
        """
        sums = np.cumsum(energies, axis=1)
        total, places = sums[:, -1], energies.shape[1]
        lows = np.minimum((sums < self.energy * total[:, None]).sum(axis=1) + 1, places)
        low = np.take_along_axis(sums, lows[:, None] - 1, axis=1)[:, 0]
        return lows, low / lows, np.maximum(total - low, 0) / np.maximum(places - lows, 1)

    def _bits(self, energies: Floats, peaks: Floats) -> npt.NDArray[np.uint8]:
        """Returns b of each part, from its mean square and its largest magnitude."""
        worth = np.full(energies.shape, -np.inf)
        some = (energies > 0) & (peaks > 0)
        worth[some] = np.rint(0.5 * np.log2(energies[some] / energies.max()))
        bits = np.clip(self.most_bits + worth, self.least_bits, self.most_bits)
        return np.where(some & (bits >= LEAST_BITS), bits, 0).astype(np.uint8)

    def _spectra(self, x: Matrix) -> Floats:
        """Returns the frequencies of rows, shape (channels, places, n), in zigzag order."""
        maps = x.reshape(len(x), -1, self.width, self.channels).astype(np.float64)
        height, width = maps.shape[1:3]
        found: Floats = np.einsum("uh,nhwc,vw->cuvn", cosines(height), maps, cosines(width), optimize=True)
        return found.reshape(self.channels, -1, len(x))[:, zigzag(height, width)]

    def _maps(self, spectra: Matrix) -> Matrix:
        """Returns the rows of frequencies: the inverse of `_spectra`."""
        channels, places, n = spectra.shape
        height = places // self.width
        ordered = np.empty_like(spectra)
        ordered[:, zigzag(height, self.width)] = spectra
        found = ordered.reshape(channels, height, self.width, n)
        bases = (cosines(size).astype(np.float32) for size in (height, self.width))
        maps: Matrix = np.einsum("uh,cuvn,vw->nhwc", next(bases), found, next(bases), optimize=True)
        return maps.reshape(n, -1)


def _largest(bits: int) -> int:
    return (1 << (int(bits) - 1)) - 1


def _shrunk(steps: npt.NDArray[np.uint8]) -> Floats:
    """Returns what so many steps make of 1."""
    return np.exp2(steps.astype(np.float64) / -HALVING)


@functools.lru_cache(maxsize=8)
def cosines(size: int) -> Floats:
    """Returns the orthonormal DCT-II of vectors of this size: frequencies by places."""
    grid = np.outer(np.arange(size), np.arange(size) + 0.5)
    basis: Floats = np.cos(np.pi / size * grid) * np.sqrt(2 / size)
    basis[0] /= np.sqrt(2)
    return basis


@functools.lru_cache(maxsize=8)
def zigzag(height: int, width: int) -> Numbers:
    """Returns the places of a map, row by row, from low to high frequencies as JPEG orders them."""
    rows, columns = np.divmod(np.arange(height * width), width)
    diagonal = rows + columns
    return np.lexsort((np.where(diagonal % 2, rows, columns), diagonal))
