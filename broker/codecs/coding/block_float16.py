"""Float16 values with one exponent for all of them.

Gradients are often around 1e-6, where float16 has few or no bits left. So an array v travels as an exponent e
and the float16 numbers v * 2**-e. The sender chooses e so that the largest magnitude lies in [2**14, 2**15).
Values down to 2**-28 of the largest then keep 11 significant bits, and the largest neither overflows nor
becomes 0.

Bytes: one signed byte e, then the float16 numbers, little-endian.
"""

import math

import numpy as np
import numpy.typing as npt

from broker.wire.errors import WireError

Floats = npt.NDArray[np.float32]

LIMIT = 2.0**127  # from here on, rounding up to the next float16 could overflow float32
MIN_EXPONENT, MAX_EXPONENT = -126, 112  # 2**-e and 2**e are normal float32 numbers


def halves_bytes(count: int) -> int:
    """Returns the exact length of `count` encoded values."""
    return 1 + 2 * count


def peak(values: Floats) -> float:
    """Returns the largest magnitude.

    Raises:
        ValueError: "not finite" when a value is NaN, infinite or of magnitude 2**127 or more.
    """
    largest = max(float(values.max()), -float(values.min()))
    if not largest < LIMIT:
        raise ValueError("not finite: a value is NaN, infinite or of magnitude 2**127 or more")
    return largest


def encode_halves(values: Floats, *, upwards: bool = False) -> bytes:
    """Encodes values of any shape in C order; `upwards` rounds to the next larger instead of the nearest.

    Raises:
        ValueError: "not finite", see `peak`.
    """
    exponent = min(max(math.frexp(peak(values))[1] - 15, MIN_EXPONENT), MAX_EXPONENT)
    scaled = values * np.float32(2.0**-exponent)
    halves = scaled.astype("<f2")
    if upwards:
        halves = np.where(halves < scaled, np.nextafter(halves, np.float16(np.inf)), halves).astype("<f2")
    return exponent.to_bytes(1, "little", signed=True) + halves.tobytes()


def decode_halves(data: bytes, count: int) -> Floats:
    """Returns the values of the first bytes of `data`, shape (count,).

    Raises:
        WireError: "shape" when `data` is shorter, "not-finite" on NaN and infinities.
    """
    if len(data) < halves_bytes(count):
        raise WireError("shape", f"{count} halves in {len(data)} bytes")
    exponent = int.from_bytes(data[:1], "little", signed=True)
    if not MIN_EXPONENT <= exponent <= MAX_EXPONENT:
        raise WireError("range", f"exponent {exponent}")
    values = np.frombuffer(data, "<f2", count, offset=1).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values *= np.float32(2.0**exponent)
    if not np.isfinite(values).all():
        raise WireError("not-finite", "a float16 value")
    return values
