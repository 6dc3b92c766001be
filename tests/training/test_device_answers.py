"""What a device puts into its answers, and what it refuses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from broker.codecs import CodewordMean, Float16, Float32, Int2, Pq, TopK, codec_to_wire, encode_gradient
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from edge_client.jobs import BackwardStep, ClientResult, FirstBatch
from edge_client.training.cut import corrected
from edge_client.training.device import Device
from scenarios.schema.flows import Codecs
from scenarios.seeds import generator
from scenarios.task import Dataset, Split, Task
from scenarios.training import BatchSampler, head_origin
from tests.helpers import small_scenario

NO_RNG = np.random.default_rng(0)
INITIAL = np.array([1.0, 2.0], np.float32)
FLOAT32 = Codecs(Float32(), Float32(), Float32(), Float32())
DATA = Split(torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([4, 1]))


class Scales(nn.Module):
    """Multiplies each of two inputs by a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


class Hand:
    """A device of round 3 that serves incarnation 5 with a rate of 0.5, and the phases of its jobs."""

    def __init__(
        self, folder: Path, *settings: str, batch_size: int = 2, error_feedback: bool = False
    ) -> None:
        self.phases: list[str] = []
        task = Task(
            name="by hand",
            metric="none",
            classes=5,
            target_shape=(),
            cut_shape=(2,),
            head=Scales,
            tail=nn.Identity,
            loss=lambda outputs, _targets: outputs.sum(1),
            score=lambda outputs, _targets: outputs[:, 0],
            load=lambda: Dataset(DATA, DATA),
        )
        training = small_scenario(folder, *settings).training
        self.device = Device(
            task,
            INITIAL,
            DATA,
            client="c7",
            seed=11,
            batch_size=batch_size,
            training=training,
            timed=self._timed,
            error_feedback=error_feedback,
        )

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.phases.append(phase)
        yield

    def assigned(
        self,
        *,
        number: int = 3,
        steps: int = 1,
        codecs: Codecs = FLOAT32,
        head: tuple[float, float] = (1.0, 2.0),
    ) -> ClientResult:
        state = codecs.head_state_down
        change = np.array([head], np.float32) - head_origin(state, INITIAL)
        up, down, update, down_state = map(codec_to_wire, codecs[:4])
        assignment = Assignment(
            5, number, 1, steps, 0.5, (up, down, update, down_state), state.encode(change, NO_RNG)
        )
        return self.device.run(FirstBatch("c7", assignment))

    def learns(self, *, number: int = 3, step: int = 0, last: bool = True, n: int = 2) -> ClientResult:
        payload = Float32().encode(np.full((n, 2), 0.25, np.float32), NO_RNG)
        return self.device.run(BackwardStep("c7", Gradient(5, number, step, 1, 0.0, payload), last=last))


def float32(answer: ClientResult) -> list[float]:
    assert isinstance(answer, Activations | HeadUpdate)
    return [round(float(value), 6) for value in np.frombuffer(answer.payload, np.float32)]


def test_activations_say_what_they_answer_and_carry_the_targets_in_the_batchs_order(tmp_path: Path) -> None:
    answer = Hand(tmp_path).assigned()
    assert isinstance(answer, Activations)
    first_is_first = float32(answer)[0] == 1.0
    rows, targets = ([1, 4, 3, 10], [4, 1]) if first_is_first else ([3, 10, 1, 4], [1, 4])
    payload, packed = np.array(rows, np.float32).tobytes(), bits.pack(np.array(targets, np.uint16), 3)
    assert answer == Activations(5, 3, 0, 1, 2, payload, packed)


def test_the_update_says_what_it_answers(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    hand.assigned()
    # each parameter falls by 0.5 * 0.25 * the sum of its inputs, 4 and 7
    assert hand.learns() == HeadUpdate(5, 3, 1, 2, 0.0, np.array([-0.5, -0.875], np.float32).tobytes())


def test_the_next_step_has_the_next_number(tmp_path: Path) -> None:
    hand = Hand(tmp_path, "training.local_steps=4")
    hand.assigned(steps=4)
    for step in (0, 1, 2):
        answer = hand.learns(step=step, last=False)
        assert isinstance(answer, Activations)
        assert (answer.server, answer.round, answer.step, answer.attempt) == (5, 3, step + 1, 1)
    answer = hand.learns(step=3)
    assert isinstance(answer, HeadUpdate)
    assert answer.samples == 8


def test_each_flow_has_the_codec_of_its_place_in_the_assignment(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    answer = hand.assigned(
        codecs=Codecs(Float16(), Float32(), TopK(fraction=0.5), Float16()), head=(3.0, 4.0)
    )
    assert isinstance(answer, Activations)
    assert sorted(Float16().decode(answer.payload, 2, 2).flatten().tolist()) == [3, 8, 9, 20]
    update = hand.learns()
    assert isinstance(update, HeadUpdate)
    assert TopK(fraction=0.5).decode(update.payload, 1, 2).tolist() == [[0.0, -0.875]]


def test_what_a_codec_lost_of_an_update_is_added_to_the_next_one(tmp_path: Path) -> None:
    def updates(*, error_feedback: bool = False) -> list[list[float]]:
        hand, decoded = Hand(tmp_path, error_feedback=error_feedback), []
        half = TopK(fraction=0.5)
        for number in (1, 2, 3):
            hand.assigned(number=number, codecs=Codecs(Float32(), Float32(), half, Float32()))
            update = hand.learns(number=number)
            assert isinstance(update, HeadUpdate)
            decoded.append(half.decode(update.payload, 1, 2)[0].tolist())
        return decoded

    # A round teaches (-0.5, -0.875): first -0.875 is sent and -0.5 kept; then -1 against -0.875.
    assert updates() == updates(error_feedback=False) == [[0.0, -0.875]] * 3
    assert updates(error_feedback=True) == [[0.0, -0.875], [-1.0, 0.0], [0.0, -1.75]]


def test_codecs_that_draw_hang_on_seed_client_round_and_step(tmp_path: Path) -> None:
    hand, coarse = Hand(tmp_path, "training.local_steps=2"), Int2()
    codecs = Codecs(coarse, Float32(), coarse, Float32())
    for step in (0, 1):
        answer = hand.learns(step=0, last=False) if step else hand.assigned(steps=2, codecs=codecs)
        assert isinstance(answer, Activations)
        z = hand.device.head.z.detach().numpy()
        assert answer.payload == coarse.encode(z, generator(11, "encode", "c7", 3, step))
    for number in range(3, 12):
        hand.assigned(number=number, codecs=codecs)
        before = hand.device.head.received
        update = hand.learns(number=number)
        assert isinstance(update, HeadUpdate)
        change = np.array([p.detach().numpy() for p in hand.device.head.module.parameters()]) - before
        assert update.payload == coarse.encode(change, generator(11, "update", "c7", number))


def test_the_phases_of_each_job_are_timed_by_name(tmp_path: Path) -> None:
    hand = Hand(tmp_path, "training.local_steps=2")
    hand.assigned(steps=2)
    assert hand.phases == ["decode", "compute", "encode"]
    hand.phases.clear()
    hand.learns(step=0, last=False)
    assert hand.phases == ["decode", "backward", "compute", "encode"]
    hand.phases.clear()
    hand.learns(step=1)
    assert hand.phases == ["decode", "backward", "encode"]
    alone = Hand(tmp_path, "training.method=fedavg")
    alone.assigned(steps=0)
    assert alone.phases == ["decode", "train", "encode"]


def test_training_alone_takes_all_local_steps_down_the_mean_loss(tmp_path: Path) -> None:
    hand = Hand(tmp_path, "training.method=fedavg", "training.local_steps=3")
    # the loss of a sample is the sum of its outputs: means of the inputs are 2 and 3.5, and the rate is 0.5
    expected = np.array([-3 * 0.5 * 2, -3 * 0.5 * 3.5], np.float32).tobytes()
    assert hand.assigned(steps=0) == HeadUpdate(5, 3, 1, 6, 0.0, expected)


def test_a_batch_is_drawn_by_seed_client_round_and_step(tmp_path: Path) -> None:
    hand = Hand(tmp_path, "training.local_steps=2", batch_size=1)
    drawn, expected = [], []
    for number in range(1, 9):
        for step in (0, 1):
            answer = hand.learns(number=number, last=False, n=1) if step else hand.assigned(number=number)
            assert isinstance(answer, Activations)
            drawn.append(4 if answer.targets == bits.pack(np.array([4], np.uint16), 3) else 1)
            (row,) = BatchSampler(2, 1, seed=11, client="c7").rows(number, step)
            expected.append(int(DATA.targets[row]))
    assert drawn == expected
    assert {1, 4} == set(drawn)


def test_each_step_of_a_device_alone_has_a_batch_of_its_own(tmp_path: Path) -> None:
    hand = Hand(tmp_path, "training.method=fedavg", "training.local_steps=4", batch_size=1)
    rows = [BatchSampler(2, 1, seed=11, client="c7").rows(3, step)[0] for step in range(4)]
    inputs = np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)
    expected = -0.5 * inputs[rows].sum(0)
    assert hand.assigned(steps=0) == HeadUpdate(5, 3, 1, 4, 0.0, expected.tobytes())


def test_a_gradient_for_each_codeword_goes_to_all_samples_that_have_it(tmp_path: Path) -> None:
    hand, one = Hand(tmp_path), Pq(subvectors=1, groups=1, centroids=1)
    hand.assigned(codecs=Codecs(one, CodewordMean(), Float32(), Float32()))
    codewords = hand.device._cut.codewords
    payload = encode_gradient(
        CodewordMean(), np.array([[0.5, 0.0], [0.0, 0.0]], np.float32), codewords, NO_RNG
    )
    update = hand.device.run(BackwardStep("c7", Gradient(5, 3, 0, 1, 0.0, payload), last=True))
    assert isinstance(update, HeadUpdate)
    # the mean of 0.5 and 0 for both samples: 0.5 * 0.25 * (1 + 3)
    assert np.frombuffer(update.payload, np.float32).tolist() == pytest.approx([-0.5, 0.0], abs=0.005)


def test_the_quantization_error_of_a_faint_head_is_relative_to_its_own_activations(tmp_path: Path) -> None:
    hand, one = Hand(tmp_path), Pq(subvectors=1, groups=1, centroids=1)
    hand.assigned(codecs=Codecs(one, Float32(), Float32(), Float32()), head=(0.01, 0.01))
    update = hand.learns()
    assert isinstance(update, HeadUpdate)
    # the centroid of (1, 2) and (3, 5) is 1 and 1.5 away from both: 6.5 of 39
    assert update.quantization_error == pytest.approx(1 / 6, rel=0.01)


def why(answer: ClientResult) -> str:
    assert isinstance(answer, WireError)
    return str(answer)


def test_an_assignment_for_another_method_is_refused(tmp_path: Path) -> None:
    assert why(Hand(tmp_path).assigned(steps=0)) == "order: 0 steps with method split"
    alone = Hand(tmp_path, "training.method=fedavg")
    assert why(alone.assigned(steps=1)) == "order: 1 steps with method fedavg"


def test_a_gradient_of_another_round_is_refused(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    assert why(hand.learns(number=1)) == "order: a gradient of round 1 in round 0"  # before any assignment
    hand.assigned()
    assert why(hand.learns(number=2)) == "order: a gradient of round 2 in round 3"
    assert isinstance(hand.learns(), HeadUpdate)


def test_what_is_no_job_is_a_mistake_in_the_program(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"^str is no job of a device$"):
        Hand(tmp_path).device.run("nonsense")  # type: ignore[arg-type]


def test_a_head_that_gives_nothing_has_no_quantization_error(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    hand.assigned(head=(0.0, 0.0))
    update = hand.learns()
    assert isinstance(update, HeadUpdate)
    assert update.quantization_error == 0.0


def test_a_device_knows_how_many_samples_it_has(tmp_path: Path) -> None:
    assert Hand(tmp_path).device.stock.samples == 2


def test_an_idle_device_keeps_no_gradients(tmp_path: Path) -> None:
    hand = Hand(tmp_path)
    hand.assigned()
    hand.learns()
    assert [p.grad for p in hand.device.head.module.parameters()] == [None]


def test_the_corrected_gradient_is_the_gradient_where_nothing_was_lost_or_lambda_is_zero() -> None:
    gradient, residual = np.array([[1.0, -2.0]], np.float32), np.array([[4.0, 8.0]], np.float32)
    assert corrected(gradient, residual, 0.0) is gradient
    assert corrected(gradient, residual, 0.5).tolist() == [[3.0, 2.0]]
    assert corrected(gradient, residual, 0.5).dtype == np.float32
