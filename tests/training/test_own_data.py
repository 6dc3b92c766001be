"""A device whose data grow, and what it sends of those that it keeps for evaluation."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from broker.codecs import Float32, codec_to_wire
from broker.wire import bits
from broker.wire.errors import WireError
from broker.wire.messages import Activations, Assignment, Gradient
from edge_client.jobs import BackwardStep, ClientResult, FirstBatch, HeldOutBatch, LookAtData, Stock
from edge_client.training.device import Device
from edge_client.training.own_data import OwnData
from scenarios.errors import ScenarioError
from scenarios.task import Split
from scenarios.training import initial_head
from tests.helpers import small_scenario
from tests.small_task import points, task

CODEC = codec_to_wire(Float32())


def of_class(label: int, count: int) -> Split:
    whole = points(count, label)
    return Split(whole.inputs, torch.full((count,), label))


@dataclass
class Grows:
    """Data that a test changes."""

    next: list[tuple[Split, Split]] = field(default_factory=list)

    def look(self) -> tuple[Split, Split] | None:
        return self.next.pop() if self.next else None


def make(folder: Path, data: Split, held_out: Split | None, grows: Grows | None = None) -> Device:
    training = small_scenario(folder).training
    look = None if grows is None else grows.look
    initial = initial_head(task(), 1)
    return Device(
        task(),
        initial,
        data,
        client="c",
        seed=1,
        batch_size=4,
        training=training,
        held_out=held_out,
        look=look,
    )


def assignment(number: int = 1, first_step: int = 0, steps: int = 2) -> FirstBatch:
    head = initial_head(task(), 1).tobytes()
    return FirstBatch("c", Assignment(1, number, 1, steps, 0.1, (CODEC,) * 4, head, first_step))


def labels(result: ClientResult) -> list[int]:
    assert isinstance(result, Activations)
    return list(map(int, bits.unpack(result.targets, 2, result.count)))


def backward(number: int, step: int, *, last: bool = False) -> BackwardStep:
    return BackwardStep("c", Gradient(1, number, step, 1, 0.0, bytes(4 * 4 * 16)), last=last)


def test_a_round_keeps_its_rows_while_the_data_grow_and_the_next_one_has_the_new_ones(tmp_path: Path) -> None:
    grows = Grows([(of_class(2, 30), of_class(3, 6))])
    device = make(tmp_path, of_class(1, 9), None, grows)
    assert device.stock == Stock(9, 0)
    assert labels(device.run(assignment())) == [1] * 4
    assert device.run(LookAtData("c")) == Stock(30, 6)
    assert labels(device.run(backward(1, 0))) == [1] * 4
    device.run(backward(1, 1, last=True))
    assert device.run(LookAtData("c")) == Stock(30, 6)
    assert labels(device.run(assignment(2))) == [2] * 4
    assert labels(device.run(assignment(3, first_step=3, steps=5))) == [3] * 4


def test_it_sends_what_it_keeps_in_order_once_each_and_its_head_stays(tmp_path: Path) -> None:
    kept = points(10, 5)
    device = make(tmp_path, of_class(1, 9), kept)
    assert device.stock == Stock(9, 10)
    batches = [device.run(assignment(4, first_step=3, steps=6))]
    batches += [device.run(HeldOutBatch("c", 4, step)) for step in (4, 5)]
    assert [label for batch in batches for label in labels(batch)] == kept.targets.tolist()
    assert [batch.count for batch in batches if isinstance(batch, Activations)] == [4, 4, 2]
    first = batches[0]
    assert isinstance(first, Activations)
    with torch.no_grad():
        z = device.head.module.eval()(kept.inputs[:4])
    np.testing.assert_array_equal(np.frombuffer(first.payload, "<f4").reshape(4, 16), z.numpy())


def test_what_it_cannot_do_it_refuses_and_lives_on(tmp_path: Path) -> None:
    device = make(tmp_path, of_class(1, 0), of_class(1, 3))
    assert isinstance(device.run(assignment()), WireError)
    assert labels(device.run(assignment(2, first_step=3, steps=4))) == [1] * 3
    assert isinstance(device.run(HeldOutBatch("c", 2, 4)), WireError)  # beyond its last row
    assert isinstance(device.run(HeldOutBatch("c", 1, 3)), WireError)  # of another round


def test_data_are_read_again_when_a_file_has_changed_and_bad_ones_once(tmp_path: Path) -> None:
    read = list[str]()
    file = tmp_path / "rows.txt"
    file.write_text("1")

    def parts() -> tuple[Split, Split]:
        read.append(file.read_text())
        if read[-1] == "bad":
            raise ScenarioError("half of a file")
        return points(int(read[-1]), 1), points(0, 1)

    own = OwnData(tmp_path, parts)
    assert len(own.read()[0].targets) == 1
    assert own.look() is None
    for content in ("bad", "22"):
        file.write_text(content)
        found = own.look()
        assert (found is None) == (content == "bad")
        assert own.look() is None
    assert read == ["1", "bad", "22"]
