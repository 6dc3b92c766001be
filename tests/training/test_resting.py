"""Idle devices: a head has memory of its own only in a round."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from broker.codecs import Float32
from edge_client.training.devices import make_devices
from scenarios.heads.in_training import HeadInTraining
from scenarios.heads.parts import sent_parameters
from scenarios.heads.payload import HeadCodec
from scenarios.schema.training import Training
from scenarios.training import head_vector
from tests.helpers import small_scenario

CHANNELS_LAST = torch.channels_last


def storages(*heads: nn.Module) -> set[int]:
    return {each.untyped_storage().data_ptr() for head in heads for each in sent_parameters(head)}


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()).to(memory_format=CHANNELS_LAST)  # type: ignore[call-overload,no-any-return]


def test_devices_that_have_not_been_asked_share_one_head(tmp_path: Path) -> None:
    devices = make_devices(small_scenario(tmp_path), ["c0", "c1", "c2"])
    assert len(storages(*(device.head.module for device in devices.values()))) == 1


def test_a_round_is_trained_in_memory_of_its_own_which_is_given_back() -> None:
    module = conv()
    initial, before = head_vector(module), head_vector(module)
    training = Training(rounds=1, cohort=1, head_lr=0.1, tail_lr=0.1)
    head = HeadInTraining(module, initial, client="c0", seed=0, training=training)
    layouts = [parameter.stride() for parameter in module.parameters()]
    head.rest_between_rounds()
    for number in (1, 2):
        sent = initial + np.float32(number)
        head.receive(Float32(), HeadCodec(Float32()).encode(sent, np.random.default_rng(0)))
        assert [parameter.stride() for parameter in module.parameters()] == layouts
        z = head.forward(torch.ones(2, 3, 5, 5), number, 0)
        head.backward(np.ones(z.shape, np.float32))
        head.descend(0.1)
        change = head.finish()
        assert change.any()
        assert storages(module) == {torch.from_numpy(initial).data_ptr()}
        np.testing.assert_array_equal(initial, before)


def test_half_precision_keeps_its_memory() -> None:
    module = nn.Linear(3, 2).to(torch.bfloat16)
    training = Training(rounds=1, cohort=1, head_lr=0.1, tail_lr=0.1)
    head = HeadInTraining(module, head_vector(module), client="c0", seed=0, training=training)
    own = storages(module)
    head.rest_between_rounds()
    assert storages(module) == own
