"""Columns, some with as many levels as their range asks for, of the others only the mean.

SplitFC's adaptive quantization of columns (Oh, Lee, Brinton, Jeon 2023, arXiv 2307.10805).

Letters: k columns of n values; m of them are sent in full, those with the largest ranges.

A grid has 256 places from the least value of all columns to the largest. The least value of a column is
rounded down to a place, the largest up; between them the column has Q levels at equal distances, and y is the
nearest. Of the k - m other columns the mean is sent, rounded to a place. With r the places between a column's
ends, the Q that make the sum of r**2 / (Q - 1)**2 least, for a given sum of log2 Q, fulfil
(Q - 1)**3 = c r**2 Q with one c for all columns. The integer nearest to that Q is taken, 2 to 256. So a
receiver knows all Q from r and c.

Bytes: which m columns (see `coding.row_set`); halves of the grid's least value, halves of its width; c as
float16; the places of the m least values, of the m largest ones, and of the k - m means, a byte each; then,
from the smallest Q that occurs to the largest, the numbers of the levels of all columns with Q levels, column
by column (see `coding.digits`).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from broker.codecs.base import Matrix
from broker.codecs.coding.block_float16 import LIMIT, decode_halves, encode_halves, halves_bytes
from broker.codecs.coding.digits import decode_digits, digits_bytes, encode_digits
from broker.codecs.coding.row_set import decode_rows, encode_rows
from broker.wire.errors import WireError

MOST = 255
"""The last place of the grid, and one less than the most levels of a column."""
SHARES = 16
"""So many shares of the columns are tried to be sent in full, from none to all."""
GRID_BYTES = 2 * halves_bytes(1)
HEADER_BYTES = GRID_BYTES + 2
LARGEST_HALF = 0x7BFF
"""The bits of the largest float16; those of smaller ones are smaller."""
BOUNDS = np.array([(2 * q - 3) ** 3 / (4 * (2 * q - 1)) for q in range(3, MOST + 2)])
"""From the first of these on, of c r**2, a column has 3 levels; from the last on, 256."""

Places = npt.NDArray[np.uint8]


class Grid(NamedTuple):
    """Where ends and means of columns can be."""

    least: np.float32
    width: np.float32

    def at(self, places: Places) -> Matrix:
        """Returns the values of places."""
        with np.errstate(over="ignore", invalid="ignore"):
            values: Matrix = self.least + places.astype(np.float32) * (self.width / np.float32(MOST))
        return values

    def of(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Returns at which places values lie, also between two."""
        step = float(self.width) / MOST
        return np.clip(
            (values - np.float64(self.least)) / step if step > 0 else np.zeros(len(values)), 0, MOST
        )


def least_bytes(k: int) -> int:
    """Returns the length of k columns of which only the means are sent."""
    return 1 + HEADER_BYTES + k


def encode_columns(columns: Matrix, most_bytes: int) -> bytes:
    """Encodes at least one column, shape (k, n), in at most so many bytes and with the least error.

    Args:
        columns: shape (k, n).
        most_bytes: `least_bytes` or more.

    Raises:
        ValueError: "not finite" for magnitudes of 2**126 and more.
    """
    k, n = columns.shape
    low, high = columns.min(axis=1), columns.max(axis=1)
    if not max(float(high.max()), -float(low.min())) < LIMIT / 2:
        raise ValueError("not finite: a value of magnitude 2**126 or more")
    header = encode_halves(low.min(keepdims=True))
    least = decode_halves(header, 1)[0]
    header += encode_halves(np.maximum(high.max(keepdims=True) - least, 0), upwards=True)
    grid = Grid(least, decode_halves(header[halves_bytes(1) :], 1)[0])
    ends = np.stack([np.floor(grid.of(low)), np.ceil(grid.of(high))]).astype(np.uint8)
    means = np.rint(grid.of(columns.mean(axis=1, dtype=np.float64))).astype(np.uint8)
    missed = np.square(columns - grid.at(means)[:, None], dtype=np.float64).sum(axis=1)
    ranges = _ranges(ends)
    widest = np.argsort(-ranges, kind="stable")
    best, least_error = b"", np.inf
    for m in sorted({k * share // SHARES for share in range(SHARES + 1)}):
        full = np.zeros(k, np.bool_)
        full[widest[:m]] = True
        which = encode_rows(np.flatnonzero(full), k)
        fixed = which + header, ends[:, full].tobytes() + means[~full].tobytes()
        room = most_bytes - sum(map(len, fixed)) - 2
        level = _water_level(ranges[full], n, room)
        if level is None:
            break
        levels = levels_of(ranges[full], level)
        codes = _codes(columns[full], grid, ends[:, full], levels)
        error = (
            missed[~full].sum()
            + np.square(columns[full] - _values(codes, grid, ends[:, full], levels), dtype=np.float64).sum()
        )
        if error < least_error:
            least_error = error
            best = fixed[0] + level.astype("<f2").tobytes() + fixed[1] + _packed(codes, levels)
    return best


def decode_columns(data: bytes, k: int, n: int) -> Matrix:
    """Returns columns, shape (k, n).

    Raises:
        WireError: "shape" on a wrong length, "not-finite" on NaN and infinities, "range" on numbers that
            stand for nothing, "malformed" on pad bits that are not zero.
    """
    rows, data = decode_rows(data, k)
    m = rows.size
    if len(data) < HEADER_BYTES + m + k:
        raise WireError("shape", f"{len(data)} bytes for {k} columns, {m} of them in full")
    least, width = decode_halves(data, 1)[0], decode_halves(data[halves_bytes(1) :], 1)[0]
    level = np.frombuffer(data, "<f2", 1, GRID_BYTES)[0]
    ends = np.frombuffer(data, np.uint8, 2 * m, HEADER_BYTES).reshape(2, m)
    if not (0 <= level < np.inf and width >= 0 and (ends[0] <= ends[1]).all()):
        raise WireError(
            "range", f"levels by {level}, a grid of width {width}, or a column that ends below its start"
        )
    means = np.frombuffer(data, np.uint8, k - m, HEADER_BYTES + 2 * m)
    levels = levels_of(_ranges(ends), level)
    codes = _unpacked(data[HEADER_BYTES + m + k :], levels, n)
    grid, full = Grid(least, width), np.zeros(k, np.bool_)
    full[rows] = True
    y = np.empty((k, n), np.float32)
    y[full] = _values(codes, grid, ends, levels)
    y[~full] = grid.at(means)[:, None]
    if not np.isfinite(y).all():
        raise WireError("not-finite", "a grid that leads beyond float32")
    return y


def levels_of(ranges: npt.NDArray[np.int64], level: np.floating) -> npt.NDArray[np.int64]:
    """Returns the levels of columns with these ranges at water level c; the same on all machines.

    c r**2 is exact in float64, and a division rounds everywhere alike.
    """
    levels: npt.NDArray[np.int64] = 2 + np.searchsorted(BOUNDS, ranges * ranges * float(level), side="right")
    return levels


def _ranges(ends: Places) -> npt.NDArray[np.int64]:
    low, high = ends.astype(np.int64)
    ranges: npt.NDArray[np.int64] = high - low
    return ranges


def _water_level(ranges: npt.NDArray[np.int64], n: int, room: int) -> np.float16 | None:
    """Returns the largest c whose levels fit into `room` bytes; None if two levels a column do not fit."""
    of_range = np.bincount(ranges, minlength=MOST + 1)

    def fits(bits: int) -> bool:
        levels = levels_of(np.arange(MOST + 1), _half(bits))
        columns = np.bincount(levels, weights=of_range, minlength=2)
        return sum(digits_bytes(int(columns[q]) * n, int(q)) for q in np.flatnonzero(columns)) <= room

    if not fits(0):
        return None
    lower, upper = 0, LARGEST_HALF + 1
    while upper - lower > 1:
        middle = (lower + upper) // 2
        lower, upper = (middle, upper) if fits(middle) else (lower, middle)
    return _half(lower)


def _half(bits: int) -> np.float16:
    half: np.float16 = np.array([bits], np.uint16).view(np.float16)[0]
    return half


def _codes(columns: Matrix, grid: Grid, ends: Places, levels: npt.NDArray[np.int64]) -> Places:
    """Returns which of its column's levels is nearest to each value, shape (m, n)."""
    low = grid.at(ends[0])[:, None]
    widths = grid.at(ends[1])[:, None].astype(np.float64) - low
    steps = np.divide((levels - 1)[:, None], widths, out=np.zeros_like(widths), where=widths > 0)
    codes: Places = np.clip(np.rint((columns - low) * steps), 0, (levels - 1)[:, None]).astype(np.uint8)
    return codes


def _values(codes: Places, grid: Grid, ends: Places, levels: npt.NDArray[np.int64]) -> Matrix:
    low, high = grid.at(ends[0])[:, None], grid.at(ends[1])[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        steps: Matrix = np.divide(high - low, (levels - 1)[:, None], dtype=np.float32)
        y: Matrix = low + codes.astype(np.float32) * steps
    return y


def _packed(codes: Places, levels: npt.NDArray[np.int64]) -> bytes:
    return b"".join(encode_digits(codes[levels == q].reshape(-1), int(q)) for q in np.unique(levels))


def _unpacked(data: bytes, levels: npt.NDArray[np.int64], n: int) -> Places:
    codes = np.zeros((levels.size, n), np.uint8)
    for q in np.unique(levels):
        rows = np.flatnonzero(levels == q)
        size = digits_bytes(rows.size * n, int(q))
        codes[rows] = decode_digits(data[:size], int(q), rows.size * n).reshape(-1, n)
        data = data[size:]
    if data:
        raise WireError("shape", f"{len(data)} bytes after the columns")
    return codes
