"""Random numbers for jitter and loss: a stream so small that every link of a large fleet has its own."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from scenarios.seeds import derive_seed

_MULTIPLIER = 0xDA942042E4DD58B5
"""Of a congruential generator modulo 2**128; Steele and Vigna 2021, also in NumPy's PCG64DXSM."""

_SPREAD = 0x2D358DCCAA6C78A58BB84B93962EACC9
"""Any odd number of 128 bits: brings a seed of 63 bits into all bits of the state."""

_MASK = 2**128 - 1
_HALF = 2**64 - 1

_M, _32, _QUARTER = np.uint64(_MULTIPLIER), np.uint64(32), np.uint64(2**32 - 1)
_M_LOW, _M_HIGH = _M & _QUARTER, _M >> _32


class RandomStream:
    """Uniform random numbers that depend on a seed and a name alone.

    A NumPy generator would take a kilobyte and 15 microseconds to make; this one takes 100 bytes, and most
    devices of a large fleet draw a few numbers only.

    Args:
        seed: the scenario's.
        labels: what the stream is for, see scenarios.seeds.derive_seed.

    Attributes:
        state: from which the next number follows.
    """

    __slots__ = ("state",)

    def __init__(self, seed: int, *labels: str | int) -> None:
        self.state = (2 * derive_seed(seed, *labels) + 1) * _SPREAD & _MASK

    def uniform(self) -> float:
        """Give the next number, above 0 and below 1, from the upper 52 of the state's 128 bits."""
        self.state = state = self.state * _MULTIPLIER & _MASK
        return ((state >> 76) + 0.5) * 2.0**-52


class ManyStreams:
    """The streams of many links; each column gives what a RandomStream with its state would give.

    Args:
        columns: so many.
    """

    def __init__(self, columns: int) -> None:
        self._states = np.zeros((columns, 2), dtype=np.uint64)  # the upper and the lower half of each

    def take(self, columns: NDArray[np.int64], streams: Sequence[RandomStream]) -> None:
        """Let columns be these streams as they are."""
        halves = [(stream.state >> 64, stream.state & _HALF) for stream in streams]
        self._states[columns] = np.array(halves, dtype=np.uint64)

    def copy(self, columns: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Give the states of some streams, shape (k, 2)."""
        return self._states[columns]

    def give(self, column: int, stream: RandomStream, state: NDArray[np.uint64] | None = None) -> None:
        """Let a stream be what its column is, or what it was when `copy` gave it."""
        upper, lower = (self._states[column] if state is None else state).tolist()
        stream.state = upper << 64 | lower

    def uniforms(self, columns: NDArray[np.int64]) -> list[float]:
        """Give the next number of each of these streams; no column twice."""
        upper, lower = self._states[columns].T
        low, high = lower & _QUARTER, lower >> _32
        low_low, low_high, high_low = low * _M_LOW, low * _M_HIGH, high * _M_LOW
        middle = (low_low >> _32) + (low_high & _QUARTER) + (high_low & _QUARTER)
        carried = high * _M_HIGH + (low_high >> _32) + (high_low >> _32) + (middle >> _32)
        upper = upper * _M + carried  # modulo 2**64, as all of this
        self._states[columns] = np.stack((upper, lower * _M), axis=1)
        numbers: list[float] = (((upper >> np.uint64(12)) + 0.5) * 2.0**-52).tolist()
        return numbers
