"""Which of the measured codecs to take, and why; of sizes and errors alone, so that a seed decides it."""

from collections.abc import Sequence
from typing import Any

from broker.codecs import Float32
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


def error_of(measured: Measured[Any]) -> float:
    """Give the error that counts: of gradients that at the head, since the head is what learns from them."""
    return measured.error if measured.head_error is None else measured.head_error
