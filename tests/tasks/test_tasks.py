"""Tasks: the model's cut, the loaders, and a user's own module."""

import gzip
import hashlib
import io
import json
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn

from scenarios.errors import ScenarioError
from scenarios.models import femnist_cnn
from scenarios.schema.task_spec import TaskSpec
from scenarios.task import Split
from scenarios.tasks import digits28, fashion_mnist, femnist, load_task
from scenarios.training import BatchSampler, head_vector, initial_model, load_head_vector

OWN_TASK = """
from dataclasses import dataclass

import torch
from torch import nn
from scenarios.task import Dataset, Split, Task

@dataclass
class Size:
    inputs: int = 4
    cut: int = 6

def load():
    inputs = torch.randn(30, Size.inputs, generator=torch.Generator().manual_seed(0))
    rows = Split(inputs, (inputs.sum(dim=1) > 0).long())
    return Dataset(train=rows, test=rows)

def task():
    return Task(
        name="mine", metric="accuracy", classes=2, target_shape=(), cut_shape=(Size.cut,),
        head=lambda: nn.Linear(Size.inputs, Size.cut), tail=lambda: nn.Linear(Size.cut, 2),
        loss=nn.CrossEntropyLoss(reduction="none"),
        score=lambda outputs, targets: (outputs.argmax(1) == targets).float(), load=load,
    )
"""


def spec(name: str = "digits28", *, module: str | None = None, path: Path | None = None) -> TaskSpec:
    return TaskSpec(name=name, module=module, path=path, partition="iid")


def error_of(task: TaskSpec) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_task(task)
    return str(caught.value)


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# the model


def test_head_and_tail_have_the_papers_sizes() -> None:
    assert parameters(femnist_cnn.head()) == 18_816
    assert parameters(femnist_cnn.tail()) + parameters(femnist_cnn.top(62)) == 1_187_774
    assert load_task(spec()).cut_size == 9216


@pytest.mark.parametrize("batch", [1, 20])
def test_cut_is_flattened_channels_last(batch: int) -> None:
    head = femnist_cnn.head().eval()
    images = torch.rand(batch, 1, 28, 28)
    with torch.no_grad():
        z = head(images)
        maps = torch.nn.Sequential(*list(head.children())[:-1])(images)  # (n, 64, 12, 12)
    assert maps.shape == (batch, 64, 12, 12)
    assert torch.equal(z, maps.permute(0, 2, 3, 1).reshape(batch, 9216))
    eight = z.reshape(batch, 1152, 8)  # sub-vectors: the second one is channels 8 to 15 of pixel (0, 0)
    assert torch.equal(eight[:, 1], maps[:, 8:16, 0, 0])
    assert z.is_contiguous()


def test_a_pixel_moves_only_neighbouring_pixels_of_all_channels() -> None:
    head = femnist_cnn.head().eval()
    image = torch.rand(1, 1, 28, 28)
    touched = image.clone()
    touched[0, 0, 0, 0] += 5.0
    with torch.no_grad():
        moved = torch.nonzero((head(image) - head(touched))[0]).flatten()
    assert len(moved) > 0
    assert int(moved.max()) < 64  # only pixel (0, 0), which comes first with its 64 channels


def test_initial_model_hangs_on_the_seed_and_leaves_global_random_state_alone() -> None:
    task = load_task(spec())
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    head, tail = initial_model(task, 7)
    assert torch.equal(torch.rand(3), expected)
    again, tail_again = initial_model(task, 7)
    assert np.array_equal(head_vector(head), head_vector(again))
    assert np.array_equal(head_vector(tail), head_vector(tail_again))
    assert not np.array_equal(head_vector(head), head_vector(initial_model(task, 8)[0]))


def test_head_vector_is_in_c_order_whatever_the_memory_layout() -> None:
    plain = torch.nn.Conv2d(2, 3, 3)
    turned = torch.nn.Conv2d(2, 3, 3)
    turned.weight.data = plain.weight.data.contiguous(memory_format=torch.channels_last)
    turned.bias.data = plain.bias.data  # type: ignore[union-attr]  # convolutions have a bias unless told
    assert not turned.weight.is_contiguous()
    assert np.array_equal(head_vector(plain), head_vector(turned))
    assert np.array_equal(head_vector(plain)[:18], plain.weight[0].detach().numpy().ravel())


def test_head_vector_round_trip_keeps_channels_last_weights() -> None:
    head, other = femnist_cnn.head(), femnist_cnn.head()
    vector = head_vector(head)
    vector.flags.writeable = False
    load_head_vector(other, vector)
    assert vector.shape == (18_816,)
    assert vector.dtype == np.float32
    assert np.array_equal(head_vector(other), vector)
    weight = next(iter(list(other.children())[2].parameters()))
    assert weight.is_contiguous(memory_format=torch.channels_last)
    images = torch.rand(2, 1, 28, 28)
    assert torch.equal(head.eval()(images), other.eval()(images))


def test_head_vector_is_a_copy() -> None:
    head = torch.nn.Linear(2, 2, bias=False)
    head_vector(head)[:] = 100.0
    assert float(head.weight.detach().abs().max()) < 100.0


def test_head_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a vector of shape \(5,\) for 6 parameters"):
        load_head_vector(torch.nn.Linear(2, 2), np.zeros(5, np.float32))


# splits and batches


def test_pixels_become_numbers_in_0_to_1_only_in_batches() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(256, 1)
    split = Split(pixels, torch.arange(256))
    inputs, targets = split.batch(np.array([255, 0, 51]))
    assert inputs.dtype == torch.float32
    assert inputs.flatten().tolist() == [1.0, 0.0, pytest.approx(0.2)]
    assert targets.tolist() == [255, 0, 51]
    assert split.batch(slice(0, 2))[0].shape == (2, 1)
    assert split.take(np.array([3])).inputs.dtype == torch.uint8


def test_other_inputs_reach_the_head_as_they_are() -> None:
    split = Split(torch.tensor([[300], [4]]), torch.zeros(2, dtype=torch.int64))
    assert split.batch(slice(None))[0].tolist() == [[300], [4]]


def test_a_split_with_more_inputs_than_targets_is_refused() -> None:
    with pytest.raises(ValueError, match="2 inputs but 1 targets"):
        Split(torch.zeros(2, 1), torch.zeros(1, dtype=torch.int64))


def test_batches_depend_on_seed_client_round_and_step_alone() -> None:
    sampler = BatchSampler(100, 20, seed=1, client="c01")
    sampler.rows(1, 0)
    rows = sampler.rows(4, 2)
    assert np.array_equal(rows, BatchSampler(100, 20, seed=1, client="c01").rows(4, 2))
    assert len(np.unique(rows)) == 20
    assert rows.min() >= 0
    assert rows.max() < 100
    others = [
        BatchSampler(100, 20, seed=2, client="c01").rows(4, 2),
        BatchSampler(100, 20, seed=1, client="c02").rows(4, 2),
        sampler.rows(5, 2),
        sampler.rows(4, 3),
    ]
    assert not any(np.array_equal(rows, other) for other in others)


def test_a_client_with_few_samples_has_batches_of_all_of_them() -> None:
    assert np.array_equal(np.sort(BatchSampler(7, 20, seed=0, client="c").rows(1, 0)), np.arange(7))


# digits28


def test_digits_are_balanced_and_always_divided_alike() -> None:
    data = digits28.load()
    assert data.owners is None
    assert data.train.inputs.shape == (4000, 1, 28, 28)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.train.targets).tolist() == [400] * 10
    assert torch.bincount(data.test.targets).tolist() == [100] * 10
    assert int(data.train.inputs.max()) == 255
    images = torch.cat([data.train.inputs, data.test.inputs]).flatten(1).numpy()
    assert len(np.unique(images, axis=0)) == 5000  # no test image in the training split
    again = digits28.load()
    assert torch.equal(data.test.inputs, again.test.inputs)


def test_the_digits_are_those_of_every_earlier_release() -> None:
    data = digits28.load()
    digest = hashlib.sha256()
    for split in (data.train, data.test):
        digest.update(split.inputs.contiguous().numpy().tobytes() + split.targets.numpy().tobytes())
    assert digest.hexdigest() == "945924750864b09877c5214c2f03fc75d4bd1abf2cb137b27473be77f1d42867"


def test_the_head_computes_what_the_published_stack_does() -> None:
    layers = (nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2))
    published = nn.Sequential(*layers, femnist_cnn.FlattenChannelsLast())
    published.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = femnist_cnn.head()
    published.load_state_dict(head.state_dict())
    inputs, gradient = torch.rand(20, 1, 28, 28), torch.randn(20, 9216)
    outputs = [module(inputs) for module in (head, published)]
    assert torch.equal(*outputs)
    for output in outputs:
        torch.dot(output.flatten(), gradient.flatten()).backward()  # type: ignore[no-untyped-call]
    for ours, theirs in zip(head.parameters(), published.parameters(), strict=True):
        assert ours.grad is not None
        assert theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)


def test_digits_take_no_folder() -> None:
    assert error_of(spec(path=Path("x"))) == (
        "task.path: digits28 has its data in this package, not in a folder"
    )


# fashion_mnist


def write_idx(path: Path, values: npt.NDArray[np.uint8], *, magic: bytes | None = None) -> None:
    head = magic or bytes([0, 0, 8, values.ndim])
    path.write_bytes(gzip.compress(head + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()))


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("t10k", 5)):
        write_idx(
            tmp_path / f"{name}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        )
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", rng.integers(0, 10, count, dtype=np.uint8))
    return tmp_path


def test_fashion_mnist_reads_idx_files(clothes: Path) -> None:
    data = load_task(spec("fashion_mnist", path=clothes)).load()
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
    assert np.array_equal(data.train.inputs[:, 0].numpy(), images)
    assert data.train.targets.dtype == torch.int64
    assert data.test.inputs.shape == (5, 1, 28, 28)


def test_fetched_clothes_are_read_where_debians_package_is_not_installed(
    clothes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", clothes / "none")
    monkeypatch.setattr(fashion_mnist, "data_folder", lambda _: clothes)
    assert len(load_task(spec("fashion_mnist")).load().train.targets) == 12


def test_missing_fashion_mnist_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError) as caught:
        fashion_mnist.load(tmp_path)
    assert str(caught.value) == (
        f"task.path: no train-images-idx3-ubyte.gz in {tmp_path}: run `fedlite data fetch fashion_mnist`"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(gzip.compress(b"\0\0\x0d\x03" + bytes(12)), "not an IDX file of bytes", id="other type"),
        pytest.param(gzip.compress(b"\0\0\x08\x01" + bytes(12)), "not an IDX file of bytes", id="dimensions"),
        pytest.param(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12), "not an IDX file of bytes", id="huge"),
        pytest.param(gzip.compress(b"\0\0\x08"), "cannot be read", id="no header"),
        pytest.param(b"not gzip", "cannot be read", id="not gzip"),
        pytest.param(gzip.compress(b"\0\0\x08\x03" + bytes(12))[:-9], "cannot be read", id="cut off gzip"),
        pytest.param(
            gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + bytes(783)), "size", id="short"
        ),
        pytest.param(
            gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 1, 28, 28) + bytes(785)), "size", id="long"
        ),
    ],
)
def test_idx_files_must_be_what_their_header_says(clothes: Path, content: bytes, message: str) -> None:
    file = clothes / "train-images-idx3-ubyte.gz"
    file.write_bytes(content)
    with pytest.raises(ScenarioError, match=message) as caught:
        fashion_mnist.load(clothes)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("labels", [np.zeros(11, np.uint8), np.full(12, 10, np.uint8)], ids=["few", "range"])
def test_labels_must_fit_the_images(clothes: Path, labels: npt.NDArray[np.uint8]) -> None:
    write_idx(clothes / "train-labels-idx1-ubyte.gz", labels)
    with pytest.raises(ScenarioError, match="expected as many 28x28 images as labels, and 10 classes"):
        fashion_mnist.load(clothes)


# femnist


def write_leaf(path: Path, users: dict[str, list[int]], value: float = 1.0) -> None:
    data = {user: {"x": [[value] * 784 for _ in labels], "y": labels} for user, labels in users.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"users": list(users), "num_samples": [], "user_data": data}))


def png(value: int, size: tuple[int, int] = (28, 28)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images: list[bytes], writers: list[str], labels: list[int]) -> None:
    encoded = [{"bytes": image, "path": None} for image in images]
    columns = {"image": encoded, "writer_id": writers, "hsf_id": [0] * len(labels), "character": labels}
    parquet.write_table(pa.table(columns), path)


def test_femnist_reads_leaf_files(tmp_path: Path) -> None:
    write_leaf(tmp_path / "train/all_data_0_niid_0_keep_0_train_9.json", {"f0": [0, 61], "f2": [5]})
    write_leaf(tmp_path / "train/all_data_1_niid_0_keep_0_train_9.json", {"f1": [7]}, value=0.2)
    write_leaf(tmp_path / "test/all_data_0_niid_0_keep_0_test_9.json", {"f0": [9]})
    data = load_task(spec("femnist", path=tmp_path)).load()
    assert data.train.targets.tolist() == [0, 61, 5, 7]
    assert data.owners is not None
    assert data.owners.tolist() == [0, 0, 2, 1]
    assert data.train.inputs[:, 0, 0, 0].tolist() == [255, 255, 255, 51]
    assert data.test.inputs.shape == (1, 1, 28, 28)


def test_femnist_reads_parquet_files_and_holds_out_a_tenth_of_each_writer(tmp_path: Path) -> None:
    writers = ["f1"] * 10 + ["f0"] * 25
    write_parquet(
        tmp_path / "train-00000-of-00001.parquet", [png(n) for n in range(35)], writers, list(range(35))
    )
    data = femnist.load(tmp_path)
    assert len(data.test.targets) == 3
    assert sorted([*data.train.targets.tolist(), *data.test.targets.tolist()]) == list(range(35))
    assert torch.equal(data.train.inputs[:, 0, 0, 0].long(), data.train.targets)
    assert data.owners is not None
    assert np.bincount(data.owners).tolist() == [23, 9]
    assert torch.equal(femnist.load(tmp_path).test.targets, data.test.targets)


def test_femnist_uses_the_test_files_there_are_and_raw_grey_values(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [bytes([7]) * 784] * 20, ["f1"] * 20, [3] * 20)
    write_parquet(tmp_path / "test-0.parquet", [png(9)], ["f1"], [4])
    data = femnist.load(tmp_path)
    assert len(data.train.targets) == 20
    assert np.unique(data.train.inputs.numpy()).tolist() == [7]
    assert data.test.targets.tolist() == [4]


def test_femnist_needs_its_folder(tmp_path: Path) -> None:
    files = (
        "the LEAF JSON files (all_data_*_train_*.json, ..._test_*.json) or the parquet files of "
        "flwrlabs/femnist"
    )
    assert error_of(spec("femnist")) == f"task.path: femnist needs the folder with {files}"
    with pytest.raises(ScenarioError) as caught:
        femnist.load(tmp_path)
    assert str(caught.value) == f"task.path: {tmp_path} must hold {files}; it is empty"


@pytest.mark.parametrize(
    "content",
    ["[", "{}", '{"users": ["a"], "user_data": {"a": {"x": [[1.0, 2.0]], "y": [1]}}}'],
    ids=["no json", "no users", "other images"],
)
def test_other_json_is_refused(tmp_path: Path, content: str) -> None:
    write_leaf(tmp_path / "all_data_0_test_9.json", {"f0": [1]})
    (tmp_path / "all_data_0_train_9.json").write_text(content)
    with pytest.raises(ScenarioError, match=r"all_data_0_train_9\.json: not LEAF's FEMNIST"):
        femnist.load(tmp_path)


@pytest.mark.parametrize("label", [62, -1])
def test_labels_outside_the_62_classes_are_refused(tmp_path: Path, label: int) -> None:
    write_parquet(tmp_path / "train.parquet", [png(0)], ["f0"], [label])
    with pytest.raises(ScenarioError, match="labels must be 0 to 61"):
        femnist.load(tmp_path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(png(0, (30, 28)), "an image of 30x28 pixels, not 28x28", id="size"),
        pytest.param(b"GIF89a", "an image is no PNG", id="no png"),
    ],
)
def test_other_images_are_refused(tmp_path: Path, image: bytes, message: str) -> None:
    write_parquet(tmp_path / "train.parquet", [image], ["f0"], [1])
    with pytest.raises(ScenarioError, match=message):
        femnist.load(tmp_path)


def test_other_parquet_files_are_refused(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [b""]}), tmp_path / "a.parquet")
    with pytest.raises(ScenarioError, match="not a table of image, writer_id, character"):
        femnist.load(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"nothing of the kind")
    with pytest.raises(ScenarioError, match="not a table of image, writer_id, character"):
        femnist.load(tmp_path)


# the registry and a user's own task


@pytest.mark.parametrize("name", ["digits28", "fashion_mnist", "femnist"])
def test_tasks_of_images_fit_their_own_description(name: str, tmp_path: Path) -> None:
    task = load_task(spec(name, path=None if name == "digits28" else tmp_path))
    assert task.name == name
    head, tail = initial_model(task, 0)
    with torch.no_grad():
        z = head(torch.rand(3, 1, 28, 28))
        outputs = tail(z)
    targets = torch.tensor([0, 1, task.classes - 1])
    assert z.shape == (3, task.cut_size)
    assert outputs.shape == (3, task.classes)
    assert task.loss(outputs, targets).shape == (3,)
    assert task.score is not None
    assert task.score(torch.eye(task.classes)[[0, 2, task.classes - 1]], targets).tolist() == [1.0, 0.0, 1.0]


def test_unknown_task_names_the_nearest() -> None:
    assert error_of(spec("fashion-mnist")) == (
        "task.name: unknown task 'fashion-mnist'; did you mean 'fashion_mnist'? "
        "known: digits28, fashion_mnist, femnist, shakespeare, watch_exercises, debtags, leaf_shakespeare, "
        "stackoverflow_tags, stackoverflow_nwp; your own one needs task.module"
    )


def test_own_task_from_a_file_learns(tmp_path: Path) -> None:
    file = tmp_path / "my_task.py"
    file.write_text(OWN_TASK)
    task = load_task(spec("mine", module=str(file)))
    head, tail = initial_model(task, 0)
    inputs, targets = task.load().train.batch(slice(None))
    optimizer = torch.optim.SGD([*head.parameters(), *tail.parameters()], lr=0.5)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.loss(tail(head(inputs)), targets).mean()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_own_task_from_an_importable_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "importable_task.py").write_text(OWN_TASK)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_task(spec("mine", module="importable_task")).cut_size == 6


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(
            "1/0", "task.module: {} fails: ZeroDivisionError: division by zero (broken.py:1)", id="import"
        ),
        pytest.param(
            "def task():\n  raise KeyError('x')",
            "task.module: {} fails: KeyError: 'x' (broken.py:2)",
            id="raises",
        ),
        pytest.param("tasks = 3", "task.module: {} has no function task()", id="nothing"),
        pytest.param(
            "def task(): return 3",
            "task.module: task() of {} must return a scenarios.task.Task",
            id="no task",
        ),
        pytest.param(
            OWN_TASK.replace('"mine"', '"yours"'),
            "task.name: is 'mine', but the task of {} is called 'yours': write that",
            id="name",
        ),
    ],
)
def test_a_broken_task_of_the_users_own_says_what_is_wrong(tmp_path: Path, code: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert error_of(spec("mine", module=str(file))) == message.format(file)


def test_missing_modules_are_named(tmp_path: Path) -> None:
    file = tmp_path / "gone.py"
    assert error_of(spec("mine", module=str(file))) == f"task.module: no such file: {file}"
    assert error_of(spec("mine", module="no_such_module")) == (
        "task.module: no_such_module fails: ModuleNotFoundError: No module named 'no_such_module'"
    )


def test_a_folder_goes_with_built_in_tasks_only(tmp_path: Path) -> None:
    assert error_of(spec("mine", module="a.b", path=tmp_path)) == (
        "task.path: goes with a built-in task; your module knows its data"
    )
