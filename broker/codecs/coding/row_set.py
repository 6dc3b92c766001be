"""Some of the rows of a matrix: which ones, then what follows of them.

Bytes: how many, k, as LEB128 (see `coding.places`); then, unless k is 0 or all, their numbers as in
`coding.elias_fano`. So a matrix of which all rows are sent costs one byte to three.
"""

import numpy as np

from broker.codecs.coding.elias_fano import Positions, decode_positions, encode_positions, positions_bytes
from broker.codecs.coding.places import decode_number, encode_number
from broker.wire.bits import packed_bytes
from broker.wire.errors import WireError


def encode_rows(rows: Positions, total: int) -> bytes:
    """Encodes the numbers of rows, shape (k,), ascending, from 0 to total - 1."""
    which = encode_positions(rows, total) if 0 < rows.size < total else b""
    return encode_number(rows.size) + which


def decode_rows(data: bytes, total: int) -> tuple[Positions, bytes]:
    """Returns the numbers of rows, shape (k,), and the bytes that follow theirs.

    Raises:
        WireError: "range" when there are more than `total`; "malformed" on a number that is none; as in
            `decode_positions`.
    """
    count, rest = decode_number(data)
    if count > total:
        raise WireError("range", f"{count} rows of {total}")
    if count in (0, total):
        return np.arange(count), rest
    size = positions_bytes(total, count)
    return decode_positions(rest[:size], total, count), rest[size:]


def most_bytes(total: int, values_bytes: int, values_bytes_of_some: int) -> int:
    """Returns what no row set and the values that follow it are longer than.

    Args:
        total: rows of the matrix.
        values_bytes: of the values of all rows.
        values_bytes_of_some: the most of those of fewer rows.
    """
    some = packed_bytes(total, 1) + values_bytes_of_some if total > 1 else 0
    return len(encode_number(total)) + max(values_bytes, some)
