"""Random numbers for jitter and loss: a stream so small that every link of a large fleet has its own."""

from collections.abc import Iterable

from scenarios.seeds import derive_seed

_MULTIPLIER = 0xDA942042E4DD58B5
"""Of a congruential generator modulo 2**128; Steele and Vigna 2021, also in NumPy's PCG64DXSM."""

_SPREAD = 0x2D358DCCAA6C78A58BB84B93962EACC9
"""Any odd number of 128 bits: brings a seed of 63 bits into all bits of the state."""

_MASK = 2**128 - 1


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


def uniforms(streams: Iterable[RandomStream]) -> list[float]:
    """Give the next number of each stream, as `uniform` does."""
    numbers = []
    for stream in streams:
        stream.state = state = stream.state * _MULTIPLIER & _MASK
        numbers.append(((state >> 76) + 0.5) * 2.0**-52)
    return numbers
