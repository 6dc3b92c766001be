"""Gradients with one mean for each codeword of the activations."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from broker.codecs import (
    Codec,
    CodedPq,
    CodewordMean,
    Codewords,
    Float32,
    Int8,
    Pq,
    codec_from_wire,
    codec_to_wire,
    decode_activations,
    decode_gradient,
    encode_activations,
    encode_gradient,
    gradient_bytes,
    gradient_codec_from_wire,
)
from broker.wire.errors import WireError
from scenarios.errors import ScenarioError
from tests.helpers import small_scenario
from tests.live.three_modes import alike_in_three_modes

Floats = npt.NDArray[np.float32]
RNG = np.random.default_rng(0)


def pq(subvectors: int, groups: int, centroids: int) -> Pq:
    return Pq(subvectors=subvectors, groups=groups, centroids=centroids)


CLUSTERING = [
    pq(4, 1, 3),
    pq(4, 2, 3),
    pq(4, 4, 2),
    pq(1, 1, 2),
    CodedPq(subvectors=4, centroids=3),
    CodedPq(subvectors=4, centroids=3, width=2),
    CodedPq(subvectors=2, centroids=40, rank=2),
]


def normal(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_gradient_is_the_mean_of_those_with_the_same_codeword() -> None:
    codewords = Codewords(np.zeros((3, 2), np.float32), np.array([[0, 2], [2, 2]]))
    gradient = np.array([[1, 2, 3, 0], [6, 3, 0, 6]], np.float32)
    payload = encode_gradient(CodewordMean(bits=8), gradient, codewords, RNG)
    assert payload == Int8().encode(np.array([[1, 2], [0, 0], [3, 3]], np.float32), RNG)
    arrived = decode_gradient(CodewordMean(bits=8), payload, codewords, 2, 4)
    np.testing.assert_allclose(arrived, [[1, 2, 3, 3], [3, 3, 3, 3]], atol=3 / 127)


@given(
    st.sampled_from(CLUSTERING),
    st.sampled_from([4, 8]),
    st.integers(0, 3),
    st.integers(1, 30),
    st.integers(0, 9),
)
def test_every_clustering_codec_has_codewords_that_both_sides_agree_upon(
    codec: Codec, bits: int, rank: int, n: int, seed: int
) -> None:
    means = CodewordMean(bits=bits, rank=rank)
    z, gradient = normal(n, 8, seed=seed), normal(n, 8, seed=seed + 1)
    payload, sent, given = encode_activations(codec, z, RNG)
    arrived, codewords = decode_activations(codec, payload, n, 8)
    np.testing.assert_array_equal(arrived, codec.decode(payload, n, 8))
    np.testing.assert_array_equal(sent, arrived)
    assert given is not None
    assert codewords is not None
    np.testing.assert_array_equal(given.codes, codewords.codes)
    np.testing.assert_array_equal(given.book, codewords.book)
    down = encode_gradient(means, gradient, codewords, RNG)
    most = gradient_bytes(means, codec, n, 8)
    assert len(down) <= most if rank else len(down) == most
    received = decode_gradient(means, down, codewords, n, 8)
    assert received.shape == (n, 8)
    by_codeword = received.reshape(codewords.codes.size, -1)
    for number in np.unique(codewords.codes):
        same = by_codeword[codewords.codes.reshape(-1) == number]
        assert (same == same[0]).all()


def test_the_gradient_of_a_convolution_hardly_changes_where_codewords_stand_for_like_pixels() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(1, 8, 3)
    kinds = torch.randn(6, 1, 3, 3)[torch.randint(0, 6, (20 * 16,))]
    patches = kinds + 0.05 * torch.randn(kinds.shape)  # each becomes a pixel of the feature map
    z = convolution(patches).reshape(20, 16 * 8)
    sent = z.detach().numpy()
    codec = CodedPq(subvectors=16, centroids=6)
    codewords = encode_activations(codec, sent, RNG)[2]
    gradient = normal(20, 16 * 8)
    down = encode_gradient(CodewordMean(bits=8), gradient, codewords, RNG)
    arrived = decode_gradient(CodewordMean(bits=8), down, codewords, 20, 16 * 8)
    assert ((arrived - gradient) ** 2).sum() > 0.8 * (gradient**2).sum()  # by itself it is lost
    whole, averaged = (
        torch.autograd.grad(z, convolution.weight, torch.from_numpy(each), retain_graph=True)[0]
        for each in (gradient, arrived)
    )
    assert torch.linalg.norm(averaged - whole) < 0.1 * torch.linalg.norm(whole)


def test_means_that_depend_on_few_numbers_are_small_as_a_product() -> None:
    rng = np.random.default_rng(3)
    codewords = Codewords(np.zeros((64, 32), np.float32), rng.permutation(64 * 4).reshape(32, 8) % 64)
    gradient = (rng.standard_normal((32 * 8, 3)) @ rng.standard_normal((3, 32))).reshape(32, 256)
    exact, thin = CodewordMean(bits=8), CodewordMean(bits=8, rank=3)
    sent = [encode_gradient(codec, gradient.astype(np.float32), codewords, rng) for codec in (exact, thin)]
    arrived = [
        decode_gradient(codec, payload, codewords, 32, 256)
        for codec, payload in zip((exact, thin), sent, strict=True)
    ]
    assert len(sent[1]) < 0.2 * len(sent[0])
    assert np.linalg.norm(arrived[1] - arrived[0]) < 0.03 * np.linalg.norm(arrived[0])


@given(st.integers(0, 10**6), st.integers(1, 4))
def test_a_product_is_nearest_where_a_codeword_stands_for_many(seed: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(12, 0.3))  # a few codewords have most of the sub-vectors
    codewords = Codewords(np.zeros((12, 8), np.float32), rng.choice(12, (20, 16), p=chances))
    gradient = rng.standard_normal((20, 16 * 8)).astype(np.float32)

    def sums(values: Floats) -> npt.NDArray[np.float64]:
        total = np.zeros((12, 8))
        np.add.at(total, codewords.codes.reshape(-1), values.reshape(-1, 8))
        return total

    payload = encode_gradient(CodewordMean(bits=8, rank=rank), gradient, codewords, rng)
    arrived = decode_gradient(CodewordMean(bits=8, rank=rank), payload, codewords, 20, 16 * 8)
    left_out = np.linalg.svd(sums(gradient), compute_uv=False)[rank:]
    off = np.linalg.norm(sums(arrived) - sums(gradient))
    assert off <= 1.1 * np.linalg.norm(left_out) + 0.02 * np.linalg.norm(sums(gradient))


@pytest.mark.parametrize("bits", [4, 8])
def test_it_travels_as_its_number_and_bits(bits: int) -> None:
    parts = codec_to_wire(CodewordMean(bits=bits))
    assert parts == [10, bits]
    assert gradient_codec_from_wire(parts, pq(4, 1, 3)) == CodewordMean(bits=bits)
    assert codec_to_wire(CodewordMean(bits=bits, rank=4)) == [10, bits, 4]
    assert gradient_codec_from_wire([10, bits, 4], pq(4, 1, 3)) == CodewordMean(bits=bits, rank=4)


@pytest.mark.parametrize(
    "parts",
    [
        ["codeword_mean"],
        ["codeword_mean", 5],
        ["codeword_mean", "8"],
        [10, 8, 65],
        [10, 8, -1],
        [10, 8, 1, 0],
    ],
)
def test_other_parameters_are_refused(parts: list[object]) -> None:
    with pytest.raises(WireError):
        gradient_codec_from_wire(parts, pq(4, 1, 3))


def test_it_is_refused_where_there_are_no_codewords() -> None:
    with pytest.raises(WireError, match="not a codec"):
        codec_from_wire(["codeword_mean", 8])
    with pytest.raises(WireError, match="activations in Float32"):
        gradient_codec_from_wire(["codeword_mean", 8], Float32())


@pytest.mark.parametrize("size", [0, 1, 35, 37])
def test_payloads_of_other_lengths_are_refused(size: int) -> None:
    codewords = Codewords(np.zeros((3, 8), np.float32), np.zeros((5, 2), np.intp))
    assert gradient_bytes(CodewordMean(bits=8), pq(2, 1, 3), 5, 16) == 27
    with pytest.raises(WireError, match="bytes"):
        decode_gradient(CodewordMean(bits=8), bytes(size), codewords, 5, 16)


PLAIN_TASK = Path(__file__).parents[1] / "plain_task.py"
MEANS = "flows.gradient_down={codec: codeword_mean, bits: 8}"


async def test_runs_send_the_same_bytes_live_simulated_and_without_training(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, MEANS, f"task.module={PLAIN_TASK}")
    live = await alike_in_three_modes(scenario, tmp_path)
    assert live["bytes"]["gradient_down"]["payload"] == 20 * 3 * (4 * 4 + 3)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ([MEANS, "flows.activations_up={codec: int8}"], "flows.gradient_down: codeword_mean, for gradient_"),
        (["flows.activations_up={codec: codeword_mean}"], "unknown codec 'codeword_mean'"),
        (["flows.gradient_down={codec: codeword_mean, bits: 5}"], "bits must be 4 or 8"),
        (
            [MEANS, "flows.by_link=[{uplink_below_kbps: 9, activations_up: {codec: int8}}]"],
            "flows.by_link.0.activations_up: codeword_mean, for gradient_down, needs",
        ),
        (
            [
                "flows.activations_up={codec: int8}",
                "flows.by_link=[{uplink_below_kbps: 9, gradient_down: {codec: codeword_mean}}]",
            ],
            "flows.by_link.0.gradient_down: codeword_mean, for gradient_down, needs",
        ),
    ],
)
def test_mistakes_are_told(tmp_path: Path, settings: list[str], problem: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, *settings)
    assert problem in str(caught.value)


def test_a_slower_links_rules_may_bring_the_codewords(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path,
        "flows.activations_up={codec: int8}",
        "flows.by_link=[{uplink_below_kbps: 9, gradient_down: {codec: codeword_mean}}, "
        "{uplink_below_kbps: 20, activations_up: {codec: pq, subvectors: 4, groups: 1, centroids: 2}}]",
    )
    assert scenario.flows.codecs_of_rule(0).gradient_down == CodewordMean()
