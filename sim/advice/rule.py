"""Which of the measured codecs to take, and why; of sizes and errors alone, so that a seed decides it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from broker.codecs import Codec, Float32, GradientCodec
from sim.advice.measure import C, Measured


def front(measured: Sequence[Measured[C]]) -> list[Measured[C]]:
    """Give those that no other beats in both bytes and error, from the fewest bytes to the least error."""
    found: list[Measured[C]] = []
    for each in sorted(measured, key=lambda one: (one.sample_bytes, error_of(one))):
        if not found or error_of(each) < error_of(found[-1]):
            found.append(each)
    return found


def worth_more_batches(measured: Sequence[Measured[C]], times: float = 1.25) -> list[Measured[C]]:
    """Leave out what another beats in both bytes and error by a factor, as one batch shows."""
    return [
        each
        for each in measured
        if not any(
            other.sample_bytes * times < each.sample_bytes and error_of(other) * times < error_of(each)
            for other in measured
        )
    ]


def smallest_within(measured: Sequence[Measured[C]], error: float) -> Measured[C]:
    """Give the codec with the fewest bytes whose error is at most `error`; float32 if there is none."""
    good = [each for each in measured if error_of(each) <= error]
    exact = [each for each in measured if isinstance(each.codec, Float32)]
    return min(good or exact, key=lambda each: (each.sample_bytes, error_of(each)))


class Pair(NamedTuple):
    """Codecs of both flows at the cut.

    Attributes:
        up: of the activations.
        down: of their gradients.
        means: what was measured of the gradients that go with `up` alone.
    """

    up: Measured[Codec]
    down: Measured[GradientCodec]
    means: Sequence[Measured[GradientCodec]]


def smallest_pair(
    activations: Sequence[Measured[Codec]],
    gradients: Sequence[Measured[GradientCodec]],
    means_of: Callable[[Codec], Sequence[Measured[GradientCodec]]],
    error: float,
    gradient_error: float,
) -> Pair:
    """Give the two codecs that have the fewest bytes together, each with its error at most as asked.

    The smallest codec of the activations need not be the one: how good the means of its codewords are for the
    gradients is another question, and these are most of the bytes if they are not good enough.

    Args:
        activations: float32 among them.
        gradients: that go with all activations, float32 among them.
        means_of: measures those that go with one codec of the activations alone; they may be none. It is not
            called for activations that have more bytes than a pair that was found.
        error: of activations.
        gradient_error: of gradients.
    """
    first, plain = smallest_within(activations, error), smallest_within(gradients, gradient_error)
    best = Pair(first, plain, means_of(first.codec))
    for up in sorted(activations, key=lambda each: (each.sample_bytes, each.error)):
        if up.error > error:
            continue
        if up.sample_bytes >= best.up.sample_bytes + best.down.sample_bytes:
            break
        means = best.means if up is first else means_of(up.codec)
        down = smallest_within([plain, *means], gradient_error)
        if up.sample_bytes + down.sample_bytes < best.up.sample_bytes + best.down.sample_bytes:
            best = Pair(up, down, means)
    return best


def error_of(measured: Measured[Any]) -> float:
    """Give the error that counts: of gradients that at the head, since the head is what learns from them."""
    return measured.error if measured.head_error is None else measured.head_error
