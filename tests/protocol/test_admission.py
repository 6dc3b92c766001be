"""Which tensors are turned away before anything is decoded, and in which words."""

from dataclasses import replace

import pytest

from broker.codecs import Float16, Float32
from broker.codecs.targets import Numbers
from broker.wire.errors import WireError
from broker.wire.messages import Activations, HeadUpdate, Hello
from broker.wire.round_messages import BatchAlong
from scenarios.schema.flows import Codecs
from server_node.protocol.admission import Gate, check_batch, check_greeting, check_update
from tests.protocol.test_server_core import PLAN

# Batches of at most 4 samples; 6 values at the cut, targets are numbers; 5 parameters in the head.
SMALL = replace(PLAN, batch_size=4, cut_size=6, targets=Numbers(), head_size=5, local_steps=3)
CODECS = Codecs(Float16(), Float32(), Float32(), Float16())
PAYLOAD_BYTES = {n: 1 + 2 * 6 * n for n in range(6)}


def activations(n: int, payload_bytes: int, targets_bytes: int) -> Activations:
    return Activations(1, 1, 0, 1, n, bytes(payload_bytes), bytes(targets_bytes))


@pytest.mark.parametrize("n", [1, 3, 4])
def test_a_batch_of_the_right_sizes_is_let_in(n: int) -> None:
    assert check_batch(SMALL, CODECS, SMALL.whole_head, activations(n, PAYLOAD_BYTES[n], 4 * n), None) is None


@pytest.mark.parametrize(
    ("n", "payload_bytes", "targets_bytes", "what"),
    [
        (5, PAYLOAD_BYTES[5], 20, "5 samples in a batch of at most 4"),
        (3, 36, 12, "activations of 36 bytes for 3 samples in Float16(codec='float16')"),
        (3, 38, 12, "activations of 38 bytes for 3 samples in Float16(codec='float16')"),
        (3, 37, 11, "targets of 11 bytes for 3 samples, not 12"),
        (3, 37, 13, "targets of 13 bytes for 3 samples, not 12"),
    ],
)
def test_a_batch_of_other_sizes_is_not(n: int, payload_bytes: int, targets_bytes: int, what: str) -> None:
    error = check_batch(SMALL, CODECS, SMALL.whole_head, activations(n, payload_bytes, targets_bytes), None)
    assert isinstance(error, WireError)
    assert (error.reason, str(error)) == ("shape", f"shape: {what}")


def head_update(samples: int, payload_bytes: int = 20) -> HeadUpdate:
    return HeadUpdate(1, 1, 1, samples, 0.0, bytes(payload_bytes))


@pytest.mark.parametrize(
    ("samples", "payload_bytes", "reason", "what"),
    [
        (6, 20, "samples", "6 samples, but 7 went through the tail"),
        (8, 20, "samples", "8 samples, but 7 went through the tail"),
        (7, 19, "shape", "head update of 19 bytes in Float32(codec='float32')"),
        (7, 21, "shape", "head update of 21 bytes in Float32(codec='float32')"),
    ],
)
def test_an_update_weighs_what_went_through_the_tail_and_has_the_heads_size(
    samples: int, payload_bytes: int, reason: str, what: str
) -> None:
    assert check_update(SMALL, CODECS, SMALL.whole_head, head_update(7), samples=7) is None
    error = check_update(SMALL, CODECS, SMALL.whole_head, head_update(samples, payload_bytes), samples=7)
    assert isinstance(error, WireError)
    assert (error.reason, str(error)) == (reason, f"{reason}: {what}")


def test_who_trains_alone_may_have_seen_as_many_samples_as_its_local_steps_hold() -> None:
    alone = replace(SMALL, steps=0)
    assert check_update(alone, CODECS, alone.whole_head, head_update(1), samples=0) is None
    assert check_update(alone, CODECS, alone.whole_head, head_update(3 * 4), samples=0) is None
    error = check_update(alone, CODECS, alone.whole_head, head_update(3 * 4 + 1), samples=0)
    assert isinstance(error, WireError)
    assert str(error) == "samples: 13 samples in a round of at most 12"
    assert error.reason == "samples"


def test_what_passed_the_gate_does_not_pass_with_other_codecs_another_share_or_another_count() -> None:
    gate, share, other = Gate(SMALL), SMALL.whole_head, CODECS._replace(activations_up=Float32())
    small = share._replace(cut_size=5)
    batch, update = activations(3, PAYLOAD_BYTES[3], 12), head_update(7)
    for _ in range(2):
        assert gate.batch(CODECS, share, batch, None) is None
        assert gate.batch(other, share, batch, None) is not None
        assert gate.batch(CODECS, small, batch, None) is not None
        assert gate.batch(CODECS, share, batch, batch) is not None  # a gradient of features is due
        assert gate.batch(CODECS, share, activations(3, 36, 12), None) is not None
        assert gate.update(CODECS, share, update, 7) is None
        assert gate.update(CODECS, share, update, 8) is not None
        assert gate.update(CODECS._replace(head_update_up=Float16()), share, update, 7) is not None
        assert gate.update(CODECS, share, head_update(7, 19), 7) is not None


ONE_WAY = replace(SMALL, gradients_every="never", local_steps=2)
ALONG = ((3, bytes(PAYLOAD_BYTES[3]), bytes(12)), (4, bytes(PAYLOAD_BYTES[4]), bytes(16)))


@pytest.mark.parametrize(
    ("samples", "batches", "what"),
    [
        (7, (), "shape: 0 batches with a head update of round 1, not 2"),
        (3, ALONG[:1], "shape: 1 batches with a head update of round 1, not 2"),
        (7, (*ALONG, ALONG[0]), "shape: 3 batches with a head update of round 1, not 2"),
        (8, ALONG, "samples: 8 samples, but 7 in the batches with it"),
        (7, (ALONG[0], (4, bytes(36), bytes(16))), "shape: activations of 36 bytes for 4 samples in Float16"),
        (7, (ALONG[0], (*ALONG[1][:2], bytes(15))), "shape: targets of 15 bytes for 4 samples, not 16"),
        (8, (ALONG[0], (5, bytes(PAYLOAD_BYTES[5]), bytes(20))), "shape: 5 samples in a batch of at most 4"),
    ],
)
def test_the_batches_with_an_update_are_those_of_all_local_steps(
    samples: int, batches: tuple[BatchAlong, ...], what: str
) -> None:
    share = ONE_WAY.whole_head
    good = HeadUpdate(1, 1, 1, 7, 0.0, bytes(20), ALONG)
    assert check_update(ONE_WAY, CODECS, share, good, samples=0) is None
    error = check_update(
        ONE_WAY, CODECS, share, HeadUpdate(1, 1, 1, samples, 0.0, bytes(20), batches), samples=0
    )
    assert str(error).startswith(what)


def test_in_a_round_with_gradients_none_come_along() -> None:
    plan = replace(ONE_WAY, gradients_every=2)
    update = HeadUpdate(1, 2, 1, 7, 0.0, bytes(20), ALONG)
    assert str(check_update(plan, CODECS, plan.whole_head, update, samples=7)).startswith("shape: 2 batches")


def test_a_device_without_the_tasks_code_cannot_take_part_in_it() -> None:
    error = check_greeting(ONE_WAY, Hello(1, "", 9, wants_welcome=True))
    assert isinstance(error, WireError)
    assert error.reason == "scenario"
    assert check_greeting(SMALL, Hello(1, "", 9, wants_welcome=True)) is None
