"""Data sets and models of Hugging Face, from folders that are made here; no network is needed."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.errors import MissingDataError, ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.local import pretrained, read_dataset
from scenarios.partition import client_rows
from scenarios.tasks import task_of
from sim.simulation.run import simulate

datasets = pytest.importorskip("datasets", reason="`datasets` is not installed: pip install datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of its own dependencies


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True, raising=False)


def table(rows: int = 40, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, rows)
    return {
        "ax": (kinds + 0.1 * rng.normal(size=rows)).tolist(),
        "ay": rng.normal(size=rows).tolist(),
        "steps": rng.integers(0, 9, rows).tolist(),
        "tokens": rng.integers(0, 50, (rows, 6)).tolist(),
        "kind": [("idle", "run", "walk")[kind] for kind in kinds],
        "level": (kinds / 2).tolist(),
        "who": [f"person-{number % 4}" for number in range(rows)],
    }


def saved(folder: Path, **splits: dict[str, Any]) -> Path:
    made = {name: datasets.Dataset.from_dict(columns) for name, columns in splits.items()}
    datasets.DatasetDict(made).save_to_disk(folder / "saved")
    return folder / "saved"


def pixels(rows: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (rows, 6, 5, 3)).astype(np.uint8)


def of_images(folder: Path, images: npt.NDArray[np.uint8]) -> Path:
    from PIL import Image  # noqa: PLC0415

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    columns = {"image": [Image.fromarray(one) for one in images], "label": [0, 1] * (len(images) // 2)}
    whole = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(train=whole, test=whole.select(range(4))).save_to_disk(folder / "saved")
    return folder / "saved"


def test_columns_of_numbers_become_rows_and_labels_that_are_text_become_classes(tmp_path: Path) -> None:
    train, test = table(), table(10, seed=1)
    found = read_dataset(
        saved(tmp_path, train=train, test=test), input=["ax", "ay", "steps"], target="kind", owner="who"
    )
    assert found.train.inputs.dtype == torch.float32
    expected = np.column_stack([train["ax"], train["ay"], train["steps"]]).astype(np.float32)
    assert np.array_equal(found.train.inputs.numpy(), expected)
    assert found.train.targets.dtype == torch.int64
    assert [("idle", "run", "walk")[label] for label in found.train.targets.tolist()] == train["kind"]
    assert found.owners is not None
    assert found.owners.tolist() == [0, 1, 2, 3] * 10
    assert len(found.test) == 10


def test_tokens_stay_whole_and_numbers_may_be_targets(tmp_path: Path) -> None:
    folder, columns = saved(tmp_path, train=table(), test=table(10)), table()
    found = read_dataset(folder, input="tokens", target="level")
    assert found.train.inputs.dtype == torch.int64
    assert found.train.inputs.tolist() == columns["tokens"]
    assert found.train.targets.dtype == torch.float32
    both = read_dataset(folder, input="tokens", target=["ax", "ay"]).train.targets
    assert both.shape == (40, 2)


def test_images_are_bytes_with_channels_first(tmp_path: Path) -> None:
    images = pixels(10)
    found = read_dataset(of_images(tmp_path, images), input="image", target="label")
    assert np.array_equal(found.train.inputs.numpy(), images.transpose(0, 3, 1, 2))
    assert (found.train.inputs.dtype, found.train.targets.tolist()) == (torch.uint8, [0, 1] * 5)
    small = read_dataset(tmp_path / "saved", input="image", target="label", size=(3, 4), gray=True)
    assert small.train.inputs.shape == (10, 1, 3, 4)


@pytest.mark.parametrize("kind", ["csv", "parquet", "jsonl"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_files_of_tables_are_read_and_a_tenth_is_kept_for_the_test(
    tmp_path: Path, kind: str, *, is_folder: bool
) -> None:
    whole, folder = datasets.Dataset.from_dict({"x": list(range(40)), "y": [0, 1] * 20}), tmp_path / "files"
    folder.mkdir()
    write = {"csv": whole.to_csv, "parquet": whole.to_parquet, "jsonl": whole.to_json}[kind]
    write(str(folder / f"rows.{kind}"))
    place = folder if is_folder else folder / f"rows.{kind}"
    one, two = (read_dataset(place, input=["x"], target="y") for _ in range(2))
    assert (len(one.train), len(one.test)) == (36, 4)
    together = torch.cat([one.train.inputs, one.test.inputs]).ravel()
    assert sorted(together.tolist()) == list(range(40))
    assert torch.equal(one.train.inputs, two.train.inputs)


def test_a_folder_of_images_by_class_is_a_data_set(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    for number, image in enumerate(pixels(8)):
        file = tmp_path / "photos" / "train" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    found = read_dataset(tmp_path / "photos", input="image", target="label")
    assert found.train.inputs.shape[1:] == (3, 6, 5)
    assert set(found.train.targets.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input": "axx"}, "there is no column 'axx'; did you mean 'ax'? the columns are: ax, ay, steps, "),
        ({"target": "label"}, "there is no column 'label'"),
        ({"owner": "whom"}, "there is no column 'whom'; did you mean 'who'?"),
        ({"input": "kind"}, "column 'kind' is text; inputs must be numbers, such as the ids of a tokenizer"),
        ({"input": ["ax", "tokens"]}, "column 'tokens' has lists: of several columns each has one number"),
        ({"input": "ragged"}, "column 'ragged' has lists of different lengths; pad or cut them to one"),
        ({"input": "gaps"}, "column 'gaps' has nothing in row 1; leave such rows out"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    wrong = {"ragged": [[1], [1, 2]] * 20, "gaps": [0.5, None] * 20}
    folder = saved(tmp_path, train=table() | wrong, test=table(4) | {"ragged": [[1]] * 4, "gaps": [0.5] * 4})
    with pytest.raises(ScenarioError) as told:
        read_dataset(folder, **({"input": "ax", "target": "kind"} | columns))
    assert message in str(told.value)
    assert "\n" not in str(told.value)


def test_images_of_several_sizes_need_one(tmp_path: Path) -> None:
    from PIL import Image  # noqa: PLC0415

    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    images = [Image.new("RGB", (4 + number % 2, 4)) for number in range(20)]
    columns = {"image": images, "label": [0] * 20}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(ScenarioError, match=r"images of 4 x 4 and 4 x 5 pixels: give size=\(height, width\)"):
        read_dataset(tmp_path / "saved", input="image", target="label")


def test_a_name_that_is_nowhere_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="nothing of that name is here, and the hub does not give it"):
        read_dataset("nobody/no-such-data", input="x", target="y")
    (tmp_path / "rows.xls").touch()
    with pytest.raises(ScenarioError, match=r"rows.xls: a file must be one of .csv, .json, .jsonl, .parquet"):
        read_dataset(tmp_path / "rows.xls", input="x", target="y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingDataError, match="empty"):
        read_dataset(tmp_path / "empty", input="x", target="y")


MODULE = """
from pathlib import Path
from torch import nn
from scenarios.local import read_dataset

def build():
    return nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))

def data():
    folder = Path(__file__).parent / "saved"
    return read_dataset(folder, input=["ax", "ay", "steps"], target="kind", owner="who")
"""


def test_it_trains_by_natural_owner(tmp_path: Path) -> None:
    saved(tmp_path, train=table(400), test=table(60, seed=1))
    (tmp_path / "mine.py").write_text(MODULE)
    (tmp_path / "mine.yaml").write_text(
        "{name: mine, task: {module: mine.py, cut: 1, partition: natural}, fleet: [{count: 4}],"
        " training: {rounds: 60, cohort: 4, head_lr: 0.3, evaluate_every: 60}}"
    )
    told = CliRunner().invoke(app, ["scenarios", "validate", str(tmp_path / "mine.yaml")])
    assert told.exit_code == 0, told.output
    scenario = load_scenario(tmp_path / "mine.yaml")
    data = task_of(scenario).load()
    who = table(400)["who"]
    assert [{who[row] for row in rows} for rows in client_rows(scenario, data)] == [
        {f"person-{number}"} for number in range(4)
    ]
    summary = simulate(scenario, tmp_path / "run")
    assert summary["metric"]["final"] is not None
    assert summary["metric"]["final"] > 0.9


def test_a_pretrained_model_is_loaded_and_stays_as_it_is(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="`transformers` is not installed")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    whole = transformers.BertModel(config)
    whole.save_pretrained(tmp_path / "model")
    loaded = pretrained(tmp_path / "model").eval()
    tokens = torch.tensor(table(4)["tokens"])
    assert torch.allclose(loaded(tokens), whole.eval()(tokens).last_hidden_state, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert all(each.requires_grad for each in pretrained(tmp_path / "model", trained=True).parameters())
    with pytest.raises(MissingDataError, match="no model can be loaded"):
        pretrained(tmp_path / "saved-elsewhere")
