"""The tail's arithmetic, held against numbers worked out on paper.

The tail of these tests is one row w = (1, 2): it gives w z, and the loss of a sample is (w z - t)^2 / 2. So
the loss has the gradient (w z - t) z at w and (w z - t) w at z.

    client  weight     z      t   w z - t  loss  at w     at z
    a       1          (1,0)  3   -2       2     (-2, 0)  (-2, -4)
    b       1/sqrt(2)  (0,1)  0    2       2     ( 0, 2)  ( 2,  4)
                       (1,1)  1    2       2     ( 2, 2)  ( 2,  4)
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from broker.codecs import Float32
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, HeadUpdate
from scenarios.task import Dataset, Split, Task
from scenarios.training import evaluate, head_vector, load_head_vector
from server_node.tail import Tail
from server_node.vocabulary.jobs import CloseRound, Diverged, RoundClosed, TailStep, TailStepped, TailUpdate
from tests.helpers import plan_of, small_scenario

SQRT2 = 2**0.5
EXACT = ("activations_up", "gradient_down", "head_update_up", "head_state_down")
FLOAT32 = [f"flows.{flow}={{codec: float32}}" for flow in EXACT]
TEST = Split(torch.eye(2), torch.tensor([1, 2]))


class InMode(nn.Module):
    """Multiplies by `train` in train mode and by 1 in eval mode."""

    def __init__(self, train: float) -> None:
        super().__init__()
        self._train = train

    def forward(self, x: Tensor) -> Tensor:
        return x * self._train if self.training else x


def linear(*weights: float) -> nn.Linear:
    layer = nn.Linear(len(weights), 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weights]))
    return layer


def task(head: nn.Module, tail: nn.Module) -> Task:
    return Task(
        name="by hand",
        metric="mean output",
        classes=4,
        target_shape=(),
        cut_shape=(2,),
        head=lambda: head,
        tail=lambda: tail,
        loss=lambda outputs, targets: (outputs[:, 0] - targets) ** 2 / 2,
        score=lambda outputs, _targets: outputs[:, 0],
        load=lambda: Dataset(TEST, TEST),
    )


def make_tail(
    folder: Path,
    tail: nn.Module,
    *settings: str,
    head: nn.Module | None = None,
    test: Split | None = TEST,
) -> Tail:
    """Make a server's part with the small scenario's settings, float32 on every flow, and a rate of 0.1."""
    scenario = small_scenario(folder, *FLOAT32, "training.tail_lr=0.1", *settings)
    made = task(head or nn.Linear(2, 2), tail)
    plan = plan_of(scenario, made)
    return Tail(made, test, head=made.head(), tail=tail, plan=plan, training=scenario.training)


def activations(z: list[list[float]], targets: list[int]) -> Activations:
    payload = Float32().encode(np.array(z, np.float32), np.random.default_rng(0))
    return Activations(1, 1, 0, 1, len(z), payload, bits.pack(np.array(targets, np.uint16), 2))


A = activations([[1, 0]], [3])
B = activations([[0, 1], [1, 1]], [0, 1])
BOTH = (("a", A, 1.0), ("b", B, 1 / SQRT2))


def stepped(server: Tail, job: TailStep) -> tuple[TailStepped, dict[str, list[list[float]]]]:
    """Do a step; gives also the gradients that go down, decoded."""
    result = server.run(job)
    assert isinstance(result, TailStepped)
    counts = {client: message.count for client, message, _ in job.batches}
    down = {}
    for client, answer in result.gradients.items():
        assert isinstance(answer, tuple)
        down[client] = Float32().decode(answer[0], counts[client], 2).tolist()
    return result, down


def test_gradients_that_go_down_are_those_of_each_clients_mean_loss_whatever_its_weight(
    tmp_path: Path,
) -> None:
    _, down = stepped(make_tail(tmp_path, linear(1, 2)), TailStep(1, 0, BOTH))
    assert down["a"] == [[-2, -4]]
    np.testing.assert_allclose(down["b"], [[1, 2], [1, 2]], rtol=1e-6)


def test_the_loss_that_is_reported_is_the_plain_sum_over_samples(tmp_path: Path) -> None:
    result, _ = stepped(make_tail(tmp_path, linear(1, 2)), TailStep(1, 0, BOTH))
    assert (result.loss_sum, result.samples) == (6.0, 3)


def test_the_tail_learns_from_losses_weighted_by_staleness(tmp_path: Path) -> None:
    """Gradient: (-2, 0) + ((0, 2) + (2, 2)) / sqrt 2, over a weight of 1 + 2 / sqrt 2."""
    server = make_tail(tmp_path, layer := linear(1, 2))
    server.run(TailStep(1, 0, BOTH))
    server.run(TailUpdate(1, 0))
    expected = [1 - 0.1 * (SQRT2 - 2) / (1 + SQRT2), 2 - 0.1 * 2 * SQRT2 / (1 + SQRT2)]
    assert layer.weight.tolist()[0] == pytest.approx(expected)


def test_batches_that_arrive_apart_teach_what_they_teach_together(tmp_path: Path) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2))
    server.run(TailStep(1, 0, BOTH[:1]))
    server.run(TailStep(1, 0, BOTH[1:]))
    server.run(TailUpdate(1, 0))
    expected = [1 - 0.1 * (SQRT2 - 2) / (1 + SQRT2), 2 - 0.1 * 2 * SQRT2 / (1 + SQRT2)]
    assert layer.weight.tolist()[0] == pytest.approx(expected)


def test_each_update_uses_the_batches_since_the_one_before(tmp_path: Path) -> None:
    """w = (1, 2) -> (1.2, 2); at w = (1.2, 2) the second step's loss has the gradient (-1.8, 0)."""
    server = make_tail(tmp_path, layer := linear(1, 2), "training.local_steps=2")
    for step in range(2):
        server.run(TailStep(1, step, BOTH[:1]))
        server.run(TailUpdate(1, step))
    assert layer.weight.tolist()[0] == pytest.approx([1.38, 2.0])
    server.run(TailUpdate(1, 2))  # nothing has arrived
    assert layer.weight.tolist()[0] == pytest.approx([1.38, 2.0])


@pytest.mark.parametrize(("number", "moved"), [(1, 0.2), (3, 0.1), (4, 0.05)])
def test_the_tails_rate_falls_with_the_rounds(tmp_path: Path, number: int, moved: float) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2), "training.rounds=4", "training.lr_decay=linear")
    server.run(TailStep(number, 0, BOTH[:1]))
    server.run(TailUpdate(number, 0))
    assert layer.weight.tolist()[0] == pytest.approx([1 + moved, 2])


def test_evaluation_is_in_eval_mode_and_every_step_in_train_mode(tmp_path: Path) -> None:
    """Head and tail multiply by 10 in train mode. In eval mode the mean of w z over (1,0), (0,1) is 1.5."""
    tail = nn.Sequential(InMode(10), linear(1, 2))
    head = nn.Sequential(InMode(10), nn.Linear(2, 2, bias=False))
    load_head_vector(head, np.array([1, 0, 0, 1], np.float32))
    server = make_tail(tmp_path, tail.eval(), head=head)
    first, _ = stepped(server, TailStep(1, 0, BOTH[:1]))
    closed = server.run(CloseRound(1, (), evaluate=True))
    again, _ = stepped(server, TailStep(2, 0, BOTH[:1]))
    assert isinstance(closed, RoundClosed)
    assert closed.metric == 1.5
    assert first.loss_sum == again.loss_sum == (10 - 3) ** 2 / 2


def test_a_metric_is_measured_without_dropout() -> None:
    """All of it is kept: (1, 0) and (0, 1) give 1 and 2."""
    made = task(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5), linear(1, 2)))
    assert evaluate(made, TEST, made.head().train(), made.tail().train()) == 1.5


def masks(server: Tail, number: int, step: int, client: str = "a") -> Tensor:
    """Which of 64 samples (1, 0) the tail's dropout lets through: the others' gradient is (0, 0)."""
    message = activations([[1, 0]] * 64, [3] * 64)
    _, down = stepped(server, TailStep(number, step, ((client, message, 1.0),)))
    return torch.tensor(down[client])[:, 0] != 0


def test_dropout_of_the_tail_depends_on_round_step_and_first_client_alone(tmp_path: Path) -> None:
    server = make_tail(tmp_path, nn.Sequential(nn.Dropout(0.5), linear(1, 2)))
    first = masks(server, 1, 0)
    assert 0 < int(first.sum()) < 64
    torch.manual_seed(1)
    assert torch.equal(masks(server, 1, 0), first)
    for other in (masks(server, 2, 0), masks(server, 1, 1), masks(server, 1, 0, "b")):
        assert not torch.equal(other, first)


def zero_head() -> nn.Linear:
    head = nn.Linear(2, 2, bias=False)
    load_head_vector(head, np.zeros(4, np.float32))
    return head


def update(samples: int, change: float, error: float = 0.0) -> HeadUpdate:
    """An update by which all four parameters of the head change."""
    delta = np.full((1, 4), change, np.float32)
    return HeadUpdate(1, 1, 1, samples, error, Float32().encode(delta, np.random.default_rng(0)))


def test_heads_are_averaged_by_samples_and_staleness(tmp_path: Path) -> None:
    """(1 * 10 * 0.4 + 1/2 * 20 * 1.0) / (10 + 10) = 0.7."""
    head = zero_head()
    server = make_tail(tmp_path, linear(1, 2), head=head)
    server.run(CloseRound(1, (("a", update(10, 0.4), 1.0), ("b", update(20, 1.0), 0.5)), evaluate=False))
    assert head_vector(head).tolist() == pytest.approx([0.7] * 4)


# What one client sends harms no other.


HUGE = activations([[1e37, 1e37]], [0])


def loss_that_needs_two(outputs: Tensor, targets: Tensor) -> Tensor:
    if len(targets) == 1:
        raise RuntimeError("one sample is not enough")
    return (outputs[:, 0] - targets) ** 2 / 2


@pytest.mark.parametrize(
    "rule", ["mean", "clipped_mean", "filtered_mean", "trimmed_mean", "coordinate_median"]
)
def test_a_batch_of_huge_numbers_is_refused_and_the_others_are_as_if_it_had_not_come(
    tmp_path: Path, rule: str
) -> None:
    alone = make_tail(tmp_path, learned := linear(1, 2), f"training.aggregation={rule}")
    expected, down = stepped(alone, TailStep(1, 0, BOTH))
    server = make_tail(tmp_path, layer := linear(1, 2), f"training.aggregation={rule}")
    result = server.run(TailStep(1, 0, (BOTH[0], ("b", B, 1 / SQRT2), ("bad", HUGE, 1.0))))
    assert isinstance(result, TailStepped)
    refusal = result.gradients.pop("bad")
    assert isinstance(refusal, WireError)
    assert str(refusal) == "range: a value of magnitude 1e+37, at most 4.29e+09 is accepted"
    assert result == expected
    assert down["a"] == [[-2, -4]]
    assert alone.run(TailUpdate(1, 0)) is server.run(TailUpdate(1, 0)) is None
    assert layer.weight.tolist() == learned.weight.tolist() != [[1, 2]]


def test_a_batch_whose_loss_is_infinite_is_refused(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(1e9, 2e9))
    result = server.run(TailStep(1, 0, (BOTH[0], ("bad", activations([[4e9, 4e9]], [0]), 1.0))))
    assert isinstance(result, TailStepped)
    assert str(result.gradients["bad"]) == "range: the loss is not finite, or of magnitude 2**64 or more"
    assert not isinstance(result.gradients["a"], WireError)


def test_a_batch_that_the_loss_cannot_take_is_refused_with_what_it_raised(tmp_path: Path) -> None:
    """The batch of one sample passes when it comes with another, so it is not refused then."""
    server = make_tail(tmp_path, layer := linear(1, 2))
    server._task = dataclasses.replace(server._task, loss=loss_that_needs_two)
    together, alone = (server.run(TailStep(1, 0, batches)) for batches in (BOTH, BOTH[:1]))
    assert isinstance(together, TailStepped)
    assert isinstance(alone, TailStepped)
    assert not any(isinstance(answer, WireError) for answer in together.gradients.values())
    assert str(alone.gradients["a"]) == "tail: RuntimeError: one sample is not enough"
    assert (alone.loss_sum, alone.samples) == (0.0, 0)
    assert layer.weight.grad is not None


def test_a_refused_batch_leaves_no_trace_in_running_statistics(tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(2)
    server = make_tail(tmp_path, nn.Sequential(norm, linear(1, 2)))
    server.run(TailStep(1, 0, (("one", A, 1.0),)))  # one sample has no variance
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]
    server.run(TailStep(1, 0, (("b", B, 1.0), ("bad", activations([[1e37, 1e37]] * 2, [0, 0]), 1.0))))
    assert norm.running_mean.tolist() == pytest.approx([0.05, 0.1])  # a tenth of B's means
    assert norm.num_batches_tracked is not None
    assert norm.num_batches_tracked.item() == 1


def loss_that_refuses_target_3(outputs: Tensor, targets: Tensor) -> Tensor:
    if (targets == 3).any():
        raise RuntimeError("3 is not welcome")
    return (outputs[:, 0] - targets) ** 2 / 2


@given(st.lists(st.booleans(), min_size=1, max_size=5), st.sampled_from(["mean", "clipped_mean"]))
def test_what_the_loss_refuses_is_as_if_it_had_not_come(
    tmp_path_factory: pytest.TempPathFactory, are_good: list[bool], rule: str
) -> None:
    """In the gradients, and in the running statistics that the tail keeps."""
    numbers = np.random.default_rng(0).normal(size=(len(are_good), 2, 2))
    batches = [
        (str(i), activations(z.tolist(), [1, 2 if good else 3]), 1.0)
        for i, (z, good) in enumerate(zip(numbers, are_good, strict=True))
    ]
    welcome = [batch for batch, good in zip(batches, are_good, strict=True) if good]
    after = []
    for sent in (batches, welcome):
        tail = nn.Sequential(nn.BatchNorm1d(2), linear(1, 2))
        server = make_tail(tmp_path_factory.getbasetemp(), tail, f"training.aggregation={rule}")
        server._task = dataclasses.replace(server._task, loss=loss_that_refuses_target_3)
        result = server.run(TailStep(1, 0, tuple(sent))) if sent else TailStepped({}, 0.0, 0)
        assert isinstance(result, TailStepped)
        answers = {who: what for who, what in result.gradients.items() if not isinstance(what, WireError)}
        gone = sum(isinstance(what, WireError) for what in result.gradients.values())
        assert gone == len(sent) - len(welcome)
        after.append((answers, result.loss_sum, [value.tolist() for value in tail.state_dict().values()]))
    assert after[0] == after[1]


def test_one_client_whose_numbers_are_refused_ends_nothing(tmp_path: Path) -> None:
    server = make_tail(tmp_path, layer := linear(1, 2))
    server.run(TailStep(1, 0, (("bad", HUGE, 1.0),)))
    assert server.run(TailUpdate(1, 0)) is None
    assert layer.weight.tolist() == [[1, 2]]


def test_when_most_clients_numbers_are_refused_the_model_is_lost_and_they_are_named(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(1, 2))
    server.run(TailStep(3, 1, (BOTH[0], ("x", HUGE, 1.0), ("y", HUGE, 1.0))))
    why = "activations_up: range: a value of magnitude 1e+37, at most 4.29e+09 is accepted (x, y)"
    assert server.run(TailUpdate(3, 1)) == Diverged(f"round 3, step 1: {why}")


def test_a_tail_that_is_not_finite_after_its_step_ends_the_run_and_names_the_greatest_loss(
    tmp_path: Path,
) -> None:
    server = make_tail(tmp_path, linear(1, 2), "training.tail_lr=1e38")
    server.run(TailStep(2, 0, (("a", A, 1.0), ("b", activations([[1e3, 0]], [0]), 1.0))))
    why = "activations_up: the tail's parameters are not finite; the greatest loss, 5e+05, was that of b"
    assert server.run(TailUpdate(2, 0)) == Diverged(f"round 2, step 0: {why}")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (update(10, 2.0**25), "range: a value of magnitude 3.36e+07, at most 1.68e+07 is accepted"),
        (update(10, 0.5, error=1e300), "range: a quantization error of inf"),
        (update(10, 0.5, error=-1.0), "range: a quantization error of -1"),
    ],
)
def test_a_head_update_that_breaks_the_model_is_refused_and_the_others_are_averaged(
    tmp_path: Path, bad: HeadUpdate, why: str
) -> None:
    server = make_tail(tmp_path, linear(100, 200), head=(head := zero_head()))
    closed = server.run(CloseRound(1, (("a", update(10, 0.4), 1.0), ("bad", bad, 1.0)), evaluate=False))
    assert isinstance(closed, RoundClosed)
    assert {client: str(error) for client, error in closed.refused.items()} == {"bad": why}
    assert head_vector(head).tolist() == pytest.approx([0.4] * 4)


def test_an_update_with_which_the_model_gives_no_numbers_is_refused(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(1e13, 2e13), head=(head := zero_head()))
    closed = server.run(
        CloseRound(1, (("a", update(10, 0.4), 1.0), ("x", update(10, 2.0**23), 1.0)), evaluate=False)
    )
    assert isinstance(closed, RoundClosed)
    why = "range: with its update the model gives no finite outputs"
    assert {client: str(error) for client, error in closed.refused.items()} == {"x": why}
    assert head_vector(head).tolist() == pytest.approx([0.4] * 4)


def test_without_test_data_it_is_tried_on_the_last_batch_also_when_it_goes_on(tmp_path: Path) -> None:
    closes = []
    for stops in (False, True):
        server = make_tail(tmp_path, layer := linear(1, 2), head=zero_head(), test=None)
        server.run(TailStep(1, 0, (("a", A, 1.0),)))
        if stops:
            state = server.state()
            server = make_tail(tmp_path, layer := linear(1, 2), head=zero_head(), test=None)
            server.restore(state)
        with torch.no_grad():
            layer.weight.fill_(1e30)
        closes.append(server.run(CloseRound(1, (("a", update(10, 0.4), 1.0),), evaluate=False)))
    assert isinstance(closes[0], Diverged)
    assert closes[0] == closes[1]


def test_updates_of_most_clients_that_are_too_large_end_the_run_and_are_named(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(100, 200), head=zero_head())
    updates = [("a", update(10, 0.4), 1.0), ("x", update(10, 2.0**63), 1.0), ("y", update(10, 2.0**63), 1.0)]
    why = "round 4: head_update_up: range: a value of magnitude 9.22e+18, at most 1.68e+07 is accepted (x, y)"
    assert server.run(CloseRound(4, tuple(updates), evaluate=False)) == Diverged(why)


def test_a_metric_that_is_no_number_ends_the_run(tmp_path: Path) -> None:
    server = make_tail(tmp_path, linear(1, 2))
    server._task = dataclasses.replace(
        server._task, score=lambda outputs, _targets: torch.full((len(outputs),), torch.inf)
    )
    assert server.run(CloseRound(5, (), evaluate=True)) == Diverged("round 5: the mean output is inf")


@pytest.mark.parametrize(("rule", "expected"), [("coordinate_median", 0.4), ("trimmed_mean", 0.4)])
def test_heads_are_averaged_by_the_scenarios_rule(tmp_path: Path, rule: str, expected: float) -> None:
    server = make_tail(tmp_path, linear(1, 2), f"training.aggregation={rule}", head=(head := zero_head()))
    updates = tuple((name, update(10, change), 1.0) for name, change in (("a", 0.3), ("b", 0.4), ("c", 90.0)))
    server.run(CloseRound(1, updates, evaluate=False))
    assert head_vector(head).tolist() == pytest.approx([expected] * 4)


def test_the_tail_learns_from_the_clients_gradients_by_the_scenarios_rule(tmp_path: Path) -> None:
    """Mean gradients at w of a, b and c: (-2, 0), (1, 2) and (9, 0); the medians are (1, 0)."""
    server = make_tail(tmp_path, layer := linear(1, 2), "training.aggregation=coordinate_median")
    server.run(TailStep(1, 0, (*BOTH, ("c", activations([[-3, 0]], [0]), 1.0))))
    server.run(TailUpdate(1, 0))
    assert layer.weight.tolist()[0] == pytest.approx([0.9, 2.0])
