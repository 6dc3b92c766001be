"""What a codec does to a task's own batches: bytes, error, time."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from broker.codecs import Codec, GradientCodec, decode_gradient, encode_activations, encode_gradient
from scenarios.seeds import generator
from sim.advice.batches import FirstBatch

C = TypeVar("C", bound=GradientCodec)


@dataclass(frozen=True)
class Measured(Generic[C]):
    """What a codec does.

    Attributes:
        codec: that was measured.
        sample_bytes: of the payload, for each sample of a batch.
        ratio: float32's bytes over these.
        error: ||z - z~||^2 / ||z||^2 over all batches.
        head_error: of a gradient codec: the same of the gradient of the head's parameters.
        encode_ms: median of a batch on this machine.
    """

    codec: C
    sample_bytes: float
    ratio: float
    error: float
    head_error: float | None
    encode_ms: float


class _Sums:
    """Sums of squares of errors and of what they are errors of."""

    def __init__(self) -> None:
        self._lost = self._whole = 0.0

    def add(self, whole: npt.NDArray[np.float32], arrives: npt.NDArray[np.float32]) -> None:
        exact = whole.astype(np.float64)
        self._whole += float(np.square(exact).sum())
        self._lost += float(np.square(exact - arrives).sum())

    @property
    def relative(self) -> float:
        return self._lost / self._whole if self._whole else 0.0


def measure_activations(codec: Codec, batches: Sequence[FirstBatch], seed: int) -> Measured[Codec]:
    """Encode the activations of all batches."""
    sums, sizes, seconds = _Sums(), 0, []
    for number, batch in enumerate(batches):
        rng = generator(seed, "advise", "activations", number)
        begun_s = time.perf_counter()
        payload, arrives, _ = encode_activations(codec, batch.z, rng)
        seconds.append(time.perf_counter() - begun_s)
        sums.add(batch.z, arrives)
        sizes += len(payload)
    return _measured(codec, batches, sizes, sums.relative, None, seconds)


def measure_gradients(
    codec: GradientCodec, activations: Codec, batches: Sequence[FirstBatch], seed: int
) -> Measured[GradientCodec]:
    """Encode the gradients of all batches, given the codec of the activations."""
    sums, at_head, sizes, seconds = _Sums(), _Sums(), 0, []
    for number, batch in enumerate(batches):
        assert batch.g is not None
        _, _, codewords = encode_activations(
            activations, batch.z, generator(seed, "advise", "activations", number)
        )
        rng = generator(seed, "advise", "gradients", number)
        begun_s = time.perf_counter()
        payload = encode_gradient(codec, batch.g, codewords, rng)
        seconds.append(time.perf_counter() - begun_s)
        arrives = decode_gradient(codec, payload, codewords, *batch.g.shape)
        sums.add(batch.g, arrives)
        at_head.add(batch.gradient, batch.at_head(arrives))
        sizes += len(payload)
    return _measured(codec, batches, sizes, sums.relative, at_head.relative, seconds)


def _measured(
    codec: C,
    batches: Sequence[FirstBatch],
    sizes: int,
    error: float,
    head_error: float | None,
    seconds: Sequence[float],
) -> Measured[C]:
    samples, values = sum(len(batch.z) for batch in batches), sum(batch.z.size for batch in batches)
    return Measured(
        codec, sizes / samples, 4 * values / sizes, error, head_error, 1000 * statistics.median(seconds)
    )
