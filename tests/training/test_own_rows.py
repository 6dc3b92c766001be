"""A device is sent the rows of embeddings that its own samples need, and learns what it would with all."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from broker.codecs import Float16, TouchedRows
from broker.codecs.coding.row_set import encode_rows
from broker.codecs.coding.row_values import WIDTHS
from broker.codecs.heads.matrices import Shape, decode_row_sets
from broker.wire.errors import WireError
from broker.wire.messages import Hello
from scenarios.errors import ScenarioError
from scenarios.heads.parts import form_of
from scenarios.heads.payload import HeadCodec
from scenarios.heads.rows_read import rows_read
from server_node.protocol.admission import check_greeting
from server_node.protocol.cohort import Cohort
from server_node.vocabulary.ledger import Ledger
from sim.simulation.run import simulate
from tests.helpers import final_score, plan_of, small_scenario
from tests.protocol.world import PLAN
from tests.words_task import Head, task

MODULE = Path(__file__).parents[1] / "words_task.py"
BY_ROWS = (
    "task.name=words",
    f"task.module={MODULE}",
    "training.rounds=15",
    "training.head_lr=1",
    "training.tail_lr=1",
    "training.local_steps=2",
    "flows.head_update_up={codec: low_rank, rank: 2, bits: 8}",
    "flows.head_state_down={codec: touched_rows, bits: 8}",
    "flows.error_feedback=true",
)
SHAPES = (Shape(20, 6, embedding=True), Shape(1, 5), Shape(4, 6))


def some(seed: int, total: int, share: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.flatnonzero(np.random.default_rng(seed).random(total) < share)


# what is sent


@settings(deadline=None)
@given(
    bits=st.sampled_from(WIDTHS),
    columns=st.integers(1, 40),
    seed=st.integers(0, 999),
    touched=st.sampled_from([0.0, 0.4, 1.0]),
    wanted=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_rows_that_are_wanted_arrive_as_they_would_with_all_and_others_not_at_all(
    bits: int, columns: int, seed: int, touched: float, wanted: float
) -> None:
    codec, n = TouchedRows(bits=bits), 30
    x = np.random.default_rng(seed).standard_normal((n, columns)).astype(np.float32)
    x[some(seed + 1, n, 1 - touched)] = 0
    rows = some(seed + 2, n, wanted)
    whole = codec.encode(x, np.random.default_rng(0))
    part = codec.part(whole, rows, n, columns)
    assert len(part) <= len(whole) + 4  # the numbers of the rows; of all rows they are not told
    expected = np.zeros_like(x)
    expected[rows] = codec.decode(whole, n, columns)[rows]
    assert codec.decode(part, n, columns).tobytes() == expected.tobytes()


def test_statistics_and_other_tensors_come_whole() -> None:
    head = HeadCodec(TouchedRows(bits=16), 3, SHAPES)
    vector = np.arange(1, 20 * 6 + 5 + 24 + 3 + 1).astype(np.float32)
    rows = encode_rows(np.array([2, 7]), 20) + encode_rows(np.arange(1), 1) + encode_rows(np.arange(4), 4)
    arrived = head.decode(head.part(head.encode(vector, np.random.default_rng(0)), rows), 149)
    assert set(np.flatnonzero(arrived[:120]) // 6) == {2, 7}
    np.testing.assert_allclose(arrived[120:], vector[120:], rtol=1e-3)
    assert (arrived[149:] == vector[149:]).all()


def test_who_says_nothing_and_other_codecs_get_all() -> None:
    assert HeadCodec(TouchedRows(), 0, SHAPES).part(b"payload", b"") == b"payload"
    assert HeadCodec(Float16(), 0, SHAPES).part(b"payload", b"any") == b"payload"


# what is needed


def sets(head: nn.Module, inputs: Tensor) -> list[list[int]] | None:
    rows = rows_read(head, [inputs, inputs[:0]])
    return [each.tolist() for each in decode_row_sets(rows, form_of(head).shapes)] if rows else None


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_words_that_occur_are_needed_and_all_of_other_layers(kind: type[nn.Embedding]) -> None:
    head = nn.Sequential(kind(50, 4), nn.Linear(4, 3))
    assert sets(head, torch.tensor([[3, 1], [9, 3]])) == [[1, 3, 9], [0, 1, 2], [0]]


def test_a_head_is_as_it_was_afterwards() -> None:
    head = Head()
    before = [parameter.detach().clone() for parameter in head.parameters()]
    rows_read(head, [torch.randint(0, 200, (400, 5))])
    assert all(torch.equal(*pair) for pair in zip(before, head.parameters(), strict=True))
    assert not head.words._forward_pre_hooks


class Tied(nn.Module):
    """Reads all words in every step: those that it chooses from are its embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)

    def forward(self, numbers: Tensor) -> Tensor:
        z: Tensor = self.words(numbers).mean(1) @ self.words.weight.T
        return z


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)
        self.out = nn.Linear(4, 20, bias=False)
        self.out.weight = self.words.weight

    def forward(self, numbers: Tensor) -> Tensor:
        z: Tensor = self.out(self.words(numbers).mean(1))
        return z


@pytest.mark.parametrize("head", [Tied, Shared, lambda: nn.Sequential(nn.Flatten(), nn.Linear(2, 3))])
def test_heads_that_read_all_rows_need_all(head: type[nn.Module]) -> None:
    made = head()
    numbers = torch.tensor([[3, 1], [9, 3]])
    assert sets(made, numbers if hasattr(made, "words") else numbers.float()) is None


def test_a_frozen_embedding_is_not_sent_and_not_told() -> None:
    head = nn.Sequential(nn.Embedding(50, 4).requires_grad_(requires_grad=False), nn.Linear(4, 3))
    assert sets(head, torch.tensor([[3, 1]])) is None


# what the server lets pass


PLAN_OF_ROWS = replace(PLAN, shapes=SHAPES, head_size=149, own_rows=True)


@pytest.mark.parametrize("rows", [b"\xff", bytes([21]), bytes([20, 1, 4, 0]), bytes(2), bytes(100_000)])
def test_rows_that_there_are_not_are_refused(rows: bytes) -> None:
    refused = check_greeting(PLAN_OF_ROWS, Hello(1, "same", 9, rows=rows))
    assert isinstance(refused, WireError)


@given(st.binary(max_size=12))
def test_whatever_a_client_says_of_rows_is_refused_or_can_be_sent(rows: bytes) -> None:
    if check_greeting(PLAN_OF_ROWS, Hello(1, "same", 9, rows=rows)) is None:
        head = HeadCodec(TouchedRows(bits=4), 0, SHAPES)
        whole = head.encode(np.ones(149, np.float32), np.random.default_rng(0))
        assert head.decode(head.part(whole, rows), 149).shape == (149,)


def test_rows_are_kept_only_where_the_scenario_has_own_rows() -> None:
    for plan, kept in ((PLAN_OF_ROWS, {"a": b"x"}), (PLAN, {})):
        cohort = Cohort(plan, Ledger(), 0)
        cohort.needs("a", b"x")
        assert cohort.rows == kept
        cohort.needs("a", b"")
        assert not cohort.rows


# whole runs


@pytest.mark.parametrize("method", ["split", "fedavg"])
def test_a_run_with_own_rows_learns_the_same_with_fewer_bytes_down(tmp_path: Path, method: str) -> None:
    ran = {
        own: simulate(
            small_scenario(tmp_path, *BY_ROWS, f"training.method={method}", f"flows.own_rows={own}"),
            tmp_path / own,
        )
        for own in ("true", "false")
    }
    assert ran["true"]["metric"] == ran["false"]["metric"]
    sent, whole = ran["true"]["bytes"], ran["false"]["bytes"]
    assert sent["head_update_up"] == whole["head_update_up"]
    assert sent["head_state_down"]["wire"] < 0.8 * whole["head_state_down"]["wire"]
    assert final_score(ran["true"]) > 0.45  # chance: 0.25


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("flows.head_state_down={codec: int8}", "touched_rows"),
        ("training.head_optimizer={kind: sgd, weight_decay: 0.1}", "weight_decay"),
    ],
)
def test_own_rows_that_cannot_be_are_told(tmp_path: Path, change: str, what: str) -> None:
    with pytest.raises(ScenarioError, match=what):
        small_scenario(tmp_path, *BY_ROWS, "flows.own_rows=true", change)


def test_the_shapes_of_a_plan_are_those_of_the_head(tmp_path: Path) -> None:
    plan = plan_of(small_scenario(tmp_path, *BY_ROWS, "flows.own_rows=true"), task())
    assert (plan.shapes, plan.own_rows) == (
        (Shape(200, 16, embedding=True), Shape(16, 16), Shape(1, 16)),
        True,
    )
