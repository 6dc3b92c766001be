"""Reads data sets and models of Hugging Face, from folders of this machine or from their hub.

`datasets` and `transformers`, the extra `huggingface`, are imported when they are used: other tasks, and most
devices, do without.
"""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scenarios.errors import MissingDataError, ScenarioError, suggestion
from scenarios.seeds import generator
from scenarios.task import Dataset, Split

TEST_SPLITS = ("test", "validation")
TEST_SHARE = 10
FILES = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""Kinds of single files, by their suffix: what `datasets` calls them."""
KEY = "task.module"


def read_dataset(
    source: str | Path,
    *,
    input: str | Sequence[str],  # noqa: A002  the user's word for it
    target: str | Sequence[str],
    owner: str | None = None,
    config: str | None = None,
    size: tuple[int, int] | None = None,
    gray: bool = False,
) -> Dataset:
    """Read a data set through `datasets`.

    Args:
        source: a folder that `save_to_disk` wrote; a folder of parquet, CSV, JSON or image files, or one such
            file; or, if nothing of that name is here, the name of a data set at the hub, which is downloaded.
        input: the column of the inputs, or several columns of numbers, which become one row.
        target: the column of the targets, or several columns of numbers. Labels that are text are numbered
            in the order of the alphabet.
        owner: the column that names each row's owner, for `partition: natural`.
        config: of the data set at the hub, if it has several.
        size: height and width to which images are resized; None: all have the same.
        gray: images have one channel instead of red, green and blue.

    Returns:
        Images as uint8, shape (N, channels, height, width); whole numbers in lists, such as tokens, as
        int64, shape (N, length); other numbers as float32. The test split is `test` or `validation`; a tenth
        of the rows, always the same, where there is neither.

    Raises:
        MissingDataError: there is nothing of that name here, and it cannot be had from the hub.
        ScenarioError: `datasets` is not installed, a column is missing, or its values cannot be used.
    """
    found = _opened(source, config)
    train, test = _splits(found, str(source))
    names = [target] if isinstance(target, str) else list(target)
    labels = _label_numbers(train, names)

    def split(rows: Any) -> Split:
        inputs = _columns(rows, [input] if isinstance(input, str) else list(input), size, gray=gray)
        targets = _columns(rows, names, None, labels=labels)
        if len(names) == 1 and _is_whole(rows, names[0]):
            targets = targets.long()
        return Split(inputs, targets)

    owners = None if owner is None else _numbered(train, owner)
    return Dataset(split(train), split(test), owners)


class Pretrained(nn.Module):
    """A model of `transformers` that gives its last hidden states alone, shape (n, length, width).

    Args:
        model: takes a batch of token ids or of what else its kind takes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the last hidden states of a batch."""
        states: Tensor = self.model(inputs).last_hidden_state
        return states


def pretrained(source: str | Path, *, trained: bool = False) -> Pretrained:
    """Load a model through `transformers.AutoModel`, from a folder of this machine or from the hub.

    Args:
        source: a folder that `save_pretrained` wrote; or, if there is none, a model's name at the hub.
        trained: whether training changes it; otherwise its parameters stay as they are.

    Raises:
        MissingDataError: there is no such model.
        ScenarioError: `transformers` is not installed.
    """
    transformers = _imported("transformers")
    transformers.utils.logging.disable_progress_bar()
    try:
        model = transformers.AutoModel.from_pretrained(str(source), local_files_only=Path(source).exists())
    except (OSError, ValueError, ImportError) as error:
        raise MissingDataError(f"{source}: no model can be loaded: {_first_line(error)}", key=KEY) from error
    return Pretrained(model.requires_grad_(trained))


def _imported(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ScenarioError(
            f"this needs {error.name}, which is not installed: "
            "pip install 'fedlite-mqtt[huggingface]' brings it",
            key=KEY,
        ) from error


def _opened(source: str | Path, config: str | None) -> Any:
    """Open a data set; gives a `datasets.Dataset` or a `datasets.DatasetDict`."""
    datasets = _imported("datasets")
    datasets.disable_progress_bars()
    place = Path(source)
    if place.is_file() and place.suffix not in FILES:
        raise ScenarioError(f"{place}: a file must be one of {', '.join(FILES)}", key=KEY)
    try:
        if not place.exists():
            return datasets.load_dataset(str(source), config)
        if place.is_file():
            return datasets.load_dataset(FILES[place.suffix], data_files=str(place))
        if any((place / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(place))
        return datasets.load_dataset(str(place))
    except Exception as error:  # `datasets` has a kind of error for every kind of trouble, its hub others
        where = "" if place.exists() else "nothing of that name is here, and the hub does not give it: "
        raise MissingDataError(f"{source}: {where}{_first_line(error)}", key=KEY) from error


def _splits(found: Any, source: str) -> tuple[Any, Any]:
    """Give the rows for training and for testing."""
    if isinstance(found, Mapping):
        if "train" not in found and len(found) > 1:
            raise ScenarioError(f"{source}: no split is called train; it has {', '.join(found)}", key=KEY)
        train = found["train"] if "train" in found else next(iter(found.values()))
        test = next((found[name] for name in TEST_SPLITS if name in found), None)
    else:
        train, test = found, None
    if test is None:
        order = generator(0, "read_dataset", "test").permutation(len(train))
        kept = max(1, len(train) // TEST_SHARE)
        train, test = train.select(np.sort(order[kept:])), train.select(np.sort(order[:kept]))
    return train, test


def _check_column(rows: Any, name: str) -> None:
    if name not in rows.column_names:
        hint = suggestion(name, rows.column_names, label="the columns are")
        raise ScenarioError(f"there is no column '{name}'{hint}", key=KEY)


def _columns(
    rows: Any,
    names: Sequence[str],
    size: tuple[int, int] | None,
    *,
    gray: bool = False,
    labels: Mapping[str, int] | None = None,
) -> Tensor:
    """Give the values of a column, or of several columns of numbers side by side."""
    for name in names:
        _check_column(rows, name)
    if len(names) == 1 and type(rows.features[names[0]]).__name__ == "Image":
        return _images(rows, names[0], size, gray=gray)
    parts = [_values(rows, name, labels if len(names) == 1 else None) for name in names]
    if len(parts) == 1:
        whole = parts[0]
        is_list_of_whole = whole.ndim > 1 and np.issubdtype(whole.dtype, np.integer)
        return torch.from_numpy(whole.astype(np.int64 if is_list_of_whole else np.float32))
    if wrong := next((name for name, part in zip(names, parts, strict=True) if part.ndim > 1), None):
        raise ScenarioError(f"column '{wrong}' has lists: of several columns each has one number", key=KEY)
    return torch.from_numpy(np.stack([part.astype(np.float32) for part in parts], axis=1))


def _values(rows: Any, name: str, labels: Mapping[str, int] | None) -> npt.NDArray[Any]:
    """Give a column as an array of numbers."""
    values = rows[name][:]
    if (missing := next((row for row, value in enumerate(values) if value is None), None)) is not None:
        raise ScenarioError(f"column '{name}' has nothing in row {missing}; leave such rows out", key=KEY)
    if values and isinstance(values[0], str):
        if labels is None:
            raise ScenarioError(
                f"column '{name}' is text; inputs must be numbers, such as the ids of a tokenizer", key=KEY
            )
        unknown = next((value for value in values if value not in labels), None)
        if unknown is not None:
            raise ScenarioError(f"column '{name}': '{unknown}' is in no row for training", key=KEY)
        return np.array([labels[value] for value in values], np.int64)
    try:
        return np.array(values)
    except ValueError as error:
        raise ScenarioError(
            f"column '{name}' has lists of different lengths; pad or cut them to one length", key=KEY
        ) from error


def _images(rows: Any, name: str, size: tuple[int, int] | None, *, gray: bool) -> Tensor:
    pictures = []
    for row, image in enumerate(rows[name]):
        if image is None:
            raise ScenarioError(f"column '{name}' has nothing in row {row}; leave such rows out", key=KEY)
        flat = image.convert("L" if gray else "RGB")
        small = flat if size is None else flat.resize((size[1], size[0]))
        pictures.append(np.asarray(small, np.uint8).reshape(small.height, small.width, -1).transpose(2, 0, 1))
    shapes = {picture.shape[1:] for picture in pictures}
    if len(shapes) > 1:
        two = " and ".join(f"{height} x {width}" for height, width in sorted(shapes)[:2])
        raise ScenarioError(f"column '{name}' has images of {two} pixels: give size=(height, width)", key=KEY)
    return torch.from_numpy(np.stack(pictures))


def _label_numbers(train: Any, names: Sequence[str]) -> dict[str, int] | None:
    """Number the labels of a column of text; None for any other column."""
    if len(names) > 1:
        return None
    _check_column(train, names[0])
    if getattr(train.features[names[0]], "dtype", "") not in ("string", "large_string"):
        return None
    words = sorted({word for word in train[names[0]] if word is not None})
    return {word: number for number, word in enumerate(words)}


def _is_whole(rows: Any, name: str) -> bool:
    """Say whether a column has classes or other whole numbers, or labels that are text."""
    dtype = str(getattr(rows.features[name], "dtype", ""))
    return dtype.startswith(("int", "uint", "bool")) or dtype in ("string", "large_string")


def _numbered(rows: Any, name: str) -> npt.NDArray[np.int64]:
    """Number the owners of rows, in the order of their names."""
    _check_column(rows, name)
    values = rows[name][:]
    if any(value is None for value in values):
        raise ScenarioError(f"column '{name}' does not name an owner in every row", key=KEY)
    return np.unique(np.array(values), return_inverse=True)[1].astype(np.int64)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
