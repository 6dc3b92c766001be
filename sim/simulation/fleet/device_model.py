"""How long a device computes: measured or assumed seconds per batch, times a random slowdown."""

import functools
import math
from typing import NamedTuple

import numpy as np

from scenarios.schema.devices import DeviceProfile, LognormalSlowdown, ParetoSlowdown, Slowdown, TraceSlowdown
from scenarios.seeds import generator
from server_node.vocabulary.head_share import HeadShare
from sim.network.csv_inputs import read_factors

Phase = tuple[str, float]
"""What the device does, and for how many seconds."""


class Work(NamedTuple):
    """The phases of each job of a device, for its own batch size.

    Attributes:
        start: the first batch of a round.
        learn: a gradient, then the next batch.
        finish: the last gradient of a round; the head's own bytes are not counted, they are few.
        top: features, and their gradient, in a U-shape.
        evaluate: a batch that is kept for evaluation.
        alone: all batches of a round in which the device trains by itself: of FedAvg, or without gradients.
    """

    start: tuple[Phase, ...]
    learn: tuple[Phase, ...]
    finish: tuple[Phase, ...]
    top: tuple[Phase, ...] = ()
    evaluate: tuple[Phase, ...] = ()
    alone: tuple[Phase, ...] = ()


@functools.lru_cache(maxsize=256)
def of_share(profile: DeviceProfile, share: HeadShare, whole: HeadShare) -> DeviceProfile:
    """Give what a device takes for its share of the head, by multiply-adds and by values at the cut.

    A profile that was timed with an early cut is given back as it is.

    Args:
        profile: of the device.
        share: what it has of the head.
        whole: all of the head.
    """
    if not share.cut or profile.cut is not None:
        return profile
    layers, codecs = share.work, share.cut_size / whole.cut_size
    return profile.model_copy(
        update={
            "forward_s": layers * profile.forward_s,
            "backward_s": layers * profile.backward_s,
            "encode_s": codecs * profile.encode_s,
            "decode_s": codecs * profile.decode_s,
        }
    )


@functools.lru_cache(maxsize=256)
def work_of(profile: DeviceProfile, samples: int, steps: int = 1) -> Work:
    """Scale a profile to batches of so many samples, of which a round has so many steps.

    What a device does with an auxiliary tail is part of `backward_s`.
    """
    scale = samples / profile.batch_size
    batch = (("compute", scale * profile.forward_s), ("encode", scale * profile.encode_s))
    gradient = (("decode", scale * profile.decode_s), ("backward", scale * profile.backward_s))
    top = (("top", scale * (profile.top_s or 0.0)),)
    alone = (*batch, gradient[1]) * steps
    return Work(start=batch, learn=gradient + batch, finish=gradient, top=top, evaluate=batch, alone=alone)


def fedavg_work_of(profile: DeviceProfile, samples: int, steps: int) -> Work:
    """Give the one job of a round of FedAvg: so many steps with batches of so many samples.

    A batch of an evaluation takes as long as one of the training, at most: there is no way back.
    """
    assert profile.whole_model_s is not None  # scenarios.loading.checks sees to it
    seconds = samples / profile.batch_size * profile.whole_model_s
    train = (("train", steps * seconds),)
    return Work(start=(), learn=(), finish=(), evaluate=(("compute", seconds),), alone=train)


class SlowdownSampler:
    """Draws the factor on a device's seconds for one computation after another.

    Args:
        slowdown: distribution of the factor; None is always 1.
        seed: the scenario's.
        client: its name, part of its own seed.

    Attributes:
        constant: the factor of all computations to come; None if it varies, or was not drawn.
    """

    __slots__ = ("_client", "_rng", "_row", "_seed", "_slowdown", "constant")

    def __init__(self, slowdown: Slowdown | None, *, seed: int, client: str) -> None:
        self._slowdown = slowdown
        self._seed = seed
        self._client = client
        self._rng: np.random.Generator | None = None  # made when the first random number is needed
        self._row = -1
        self.constant: float | None = 1.0 if slowdown is None else None

    def factor(self) -> float:
        """Give the factor of the next computation.

        Raises:
            ScenarioError: the trace file cannot be used.
        """
        if self.constant is not None:
            return self.constant
        match self._slowdown:
            case TraceSlowdown(file=file):
                return self._next_row(read_factors(file))
            case LognormalSlowdown(sigma=sigma, drawn=drawn):
                factor = math.exp(sigma * self._random().standard_normal())
            case ParetoSlowdown(shape=shape, drawn=drawn):
                factor = (1 - self._random().random()) ** (-1 / shape)
        if drawn == "per_client":
            self.constant = factor
        return factor

    def _next_row(self, factors: tuple[float, ...]) -> float:
        if self._row < 0:
            self._row = int(self._random().integers(len(factors)))
        factor = factors[self._row]
        self._row = (self._row + 1) % len(factors)
        return factor

    def _random(self) -> np.random.Generator:
        if self._rng is None:
            self._rng = generator(self._seed, "slowdown", self._client)
        return self._rng
