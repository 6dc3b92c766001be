"""A device's arithmetic, held against numbers worked out on paper.

The head of these tests is one number w that multiplies; the device has the inputs 1 and 3 and takes both in
every batch, in an order of its own. With dh/dz~ = g for both samples, the gradient at w is (1 + 3) g.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from broker.codecs import Float32, Pq, codec_to_wire
from broker.wire.messages import Activations, Assignment, Gradient, HeadUpdate
from edge_client.jobs import BackwardStep, FirstBatch
from edge_client.training.device import Device
from scenarios.seeded import seeded
from scenarios.seeds import derive_seed
from scenarios.task import Dataset, Split, Task
from tests.helpers import small_scenario

FLOAT32 = codec_to_wire(Float32())
ONE_CENTROID = codec_to_wire(Pq(subvectors=1, groups=1, centroids=1))
DATA = Split(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1]))


class Times(nn.Module):
    """Multiplies by its one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.w


def make_device(
    folder: Path,
    *settings: str,
    head: Callable[[], nn.Module] = Times,
    data: Split = DATA,
    timed: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Device:
    """Make a device with the small scenario's settings and a rate of 0.1."""
    scenario = small_scenario(folder, "training.head_lr=0.1", *settings)
    task = Task(
        name="by hand",
        metric="none",
        classes=2,
        target_shape=(),
        cut_shape=(1,),
        head=head,
        tail=nn.Identity,
        loss=lambda outputs, targets: (outputs[:, 0] - targets) ** 2 / 2,
        score=lambda outputs, _targets: outputs[:, 0],
        load=lambda: Dataset(DATA, DATA),
    )
    return Device(
        task,
        np.ones(1, np.float32),
        data,
        client="c0",
        seed=7,
        batch_size=len(data.targets),
        training=scenario.training,
        timed=timed,
    )


def begin(
    device: Device, number: int = 1, *, steps: int = 1, head: float = 1.0, codec: object = FLOAT32
) -> Activations | HeadUpdate:
    encoded = Float32().encode(np.full((1, 1), head, np.float32), np.random.default_rng(0))
    training = device._training  # the server tells the rate of each round; the scenario's, as a server would
    lr = training.head_lr * training.lr_factor(number)
    codecs = (codec, FLOAT32, FLOAT32, FLOAT32)
    answer = device.run(FirstBatch("c0", Assignment(1, number, 1, steps, lr, codecs, encoded)))  # type: ignore[arg-type]
    assert isinstance(answer, Activations | HeadUpdate)
    return answer


def learn(
    device: Device, number: int, step: int, gradient: float, *, last: bool = True, correction: float = 0.0
) -> Activations | HeadUpdate:
    samples = np.full((device.stock.samples, 1), gradient, np.float32)
    payload = Float32().encode(samples, np.random.default_rng(0))
    answer = device.run(BackwardStep("c0", Gradient(1, number, step, 1, correction, payload), last=last))
    assert isinstance(answer, Activations | HeadUpdate)
    return answer


def values(answer: Activations | HeadUpdate) -> list[float]:
    """Decode a float32 payload, smallest value first."""
    return sorted(np.frombuffer(answer.payload, np.float32).tolist())


def test_a_step_goes_against_the_gradient_that_came_down(tmp_path: Path) -> None:
    device = make_device(tmp_path)
    assert values(begin(device)) == [1, 3]
    update = learn(device, 1, 0, 0.5)
    assert isinstance(update, HeadUpdate)
    assert values(update) == pytest.approx([-0.1 * 4 * 0.5])
    assert update.samples == 2


def test_each_local_step_starts_from_the_head_that_the_one_before_left(tmp_path: Path) -> None:
    """w = 1 -> 0.8 -> 0.4, and the update is the change since the head arrived."""
    device = make_device(tmp_path, "training.local_steps=2")
    begin(device, steps=2)
    assert values(learn(device, 1, 0, 0.5, last=False)) == pytest.approx([0.8, 2.4])
    update = learn(device, 1, 1, 1.0)
    assert isinstance(update, HeadUpdate)
    assert values(update) == pytest.approx([-0.6])
    assert update.samples == 4


@pytest.mark.parametrize(("number", "change"), [(1, -0.2), (3, -0.1), (4, -0.05)])
def test_the_heads_rate_falls_with_the_rounds(tmp_path: Path, number: int, change: float) -> None:
    device = make_device(tmp_path, "training.rounds=4", "training.lr_decay=linear")
    begin(device, number)
    assert values(learn(device, number, 0, 0.5)) == pytest.approx([change])


@pytest.mark.parametrize(("number", "w"), [(1, 0.729), (3, 0.857375)])
def test_local_training_of_the_whole_model_falls_with_the_rounds_too(
    tmp_path: Path, number: int, w: float
) -> None:
    """FedAvg, three steps: the one sample has z = w and t = 0, so each step takes w to (1 - rate) w."""
    settings = "training.method=fedavg", "training.local_steps=3", "training.rounds=4"
    one = Split(torch.tensor([[1.0]]), torch.tensor([0]))
    device = make_device(tmp_path, *settings, "training.lr_decay=linear", data=one)
    assert values(begin(device, number, steps=0)) == pytest.approx([w - 1])


def test_the_quantization_error_is_that_of_the_round_alone(tmp_path: Path) -> None:
    """One centroid: z = w (1, 3) arrives as 2 w, an error of 2 w^2 in 10 w^2, and 0 where nothing is lost."""
    device = make_device(tmp_path)
    errors = []
    for number, codec in enumerate((ONE_CENTROID, FLOAT32, ONE_CENTROID), start=1):
        begin(device, number, head=float(number), codec=codec)
        update = learn(device, number, 0, 0.5)
        assert isinstance(update, HeadUpdate)
        errors.append(update.quantization_error)
    assert errors == [pytest.approx(0.2), 0.0, pytest.approx(0.2)]


def test_the_quantization_error_spans_the_steps_of_a_round(tmp_path: Path) -> None:
    """w = 1 -> 0.5: (2 + 2 / 4) / (10 + 10 / 4) = 0.2. Without a correction the residual teaches nothing."""
    device = make_device(tmp_path, "training.local_steps=2")
    begin(device, steps=2, codec=ONE_CENTROID)
    learn(device, 1, 0, 1.25, last=False)
    update = learn(device, 1, 1, 0.0)
    assert isinstance(update, HeadUpdate)
    assert update.quantization_error == pytest.approx(0.2)
    assert values(update) == pytest.approx([-0.5])


def test_the_correction_adds_lambda_times_what_the_codec_lost(tmp_path: Path) -> None:
    """z - z~ is (-1, 1): the gradient at w is 4 * 0.5 + 0.25 * (1 * -1 + 3 * 1) = 2.5."""
    device = make_device(tmp_path)
    begin(device, codec=ONE_CENTROID)
    assert values(learn(device, 1, 0, 0.5, correction=0.25)) == pytest.approx([-0.25])


def test_a_head_is_in_train_mode_however_its_task_made_it(tmp_path: Path) -> None:
    class InMode(Times):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * (10 if self.training else 1)

    assert values(begin(make_device(tmp_path, head=lambda: InMode().eval()))) == [10, 30]


SIXTY_FOUR = Split(torch.ones(64, 1), torch.zeros(64, dtype=torch.int64))


def masks(device: Device, number: int) -> list[float]:
    """What a head with dropout of 0.5 lets through in two steps of a round, 64 ones each."""
    drawn = []
    for answer in (begin(device, number, steps=2), learn(device, number, 0, 0.0, last=False)):
        drawn += np.frombuffer(answer.payload, np.float32).tolist()
    return drawn


def test_dropout_of_the_head_depends_on_client_round_and_step_alone(tmp_path: Path) -> None:
    def head() -> nn.Module:
        return nn.Sequential(Times(), nn.Dropout(0.5))

    device = make_device(tmp_path, "training.local_steps=2", head=head, data=SIXTY_FOUR)
    first, second = masks(device, 1), masks(device, 2)
    torch.manual_seed(1)
    restarted = make_device(tmp_path, "training.local_steps=2", head=head, data=SIXTY_FOUR)
    assert masks(restarted, 2) == second
    assert {0.0, 2.0} == set(first)
    assert len({tuple(first[:64]), tuple(first[64:]), tuple(second[:64]), tuple(second[64:])}) == 4


def test_a_head_that_draws_only_now_and_then_keeps_its_seed(tmp_path: Path) -> None:
    class DrawsWhenSmall(Times):
        """Adds noise once its parameter has come below 1, so not in the first step."""

        def forward(self, x: Tensor) -> Tensor:
            z = super().forward(x)
            return z + torch.rand(1) if self.w.item() < 1 else z

    device = make_device(tmp_path, "training.local_steps=2", head=DrawsWhenSmall)
    assert values(begin(device, steps=2)) == [1, 3]
    second = values(learn(device, 1, 0, 0.5, last=False))
    with seeded(derive_seed(7, "dropout", "c0", 1, 1)):
        noise = torch.rand(1).item()
    assert second == pytest.approx([0.8 + noise, 2.4 + noise])


def test_a_device_does_one_job_at_a_time(tmp_path: Path) -> None:
    """A job of a round that the server gave up is still at work when the next round's begins.

    The first job's head waits until the second job is at the door, and goes on only then.
    """
    phases: list[tuple[str, str]] = []
    second_is_here = threading.Event()

    class Door:
        """The device's own lock, which tells when the second job comes to it."""

        def __init__(self, lock: AbstractContextManager[object]) -> None:
            self._lock = lock

        def __enter__(self) -> object:
            if threading.current_thread().name == "second":
                second_is_here.set()
            return self._lock.__enter__()

        def __exit__(self, *exit_: object) -> None:
            self._lock.__exit__(None, None, None)

    class Waits(Times):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread().name == "first":
                second.start()
                second_is_here.wait()
            return super().forward(x)

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        phases.append((threading.current_thread().name, phase))
        if threading.current_thread().name == "second":
            second_is_here.set()
        yield

    device = make_device(tmp_path, head=Waits, timed=timed)
    device._at_work = Door(device._at_work)  # type: ignore[assignment]
    second = threading.Thread(target=begin, args=(device, 2), name="second")
    first = threading.Thread(target=begin, args=(device, 1), name="first")
    first.start()
    first.join()
    second.join()
    one_job = ["decode", "compute", "encode"]
    assert phases == [("first", phase) for phase in one_job] + [("second", phase) for phase in one_job]
