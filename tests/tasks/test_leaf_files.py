"""LEAF's files are found where LEAF and people leave them, or it is told what is there instead."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scenarios.errors import ScenarioError
from scenarios.tasks import femnist

WRITERS = {"w2": 3, "w1": 2}


def content(pixel: Any = 0.5, label: int = 3) -> bytes:
    rows = {name: {"x": [[pixel] * 784] * count, "y": [label] * count} for name, count in WRITERS.items()}
    sizes = list(WRITERS.values())
    return json.dumps({"users": list(WRITERS), "num_samples": sizes, "user_data": rows}).encode()


def laid(root: Path, names: str, packed: bytes | None = None) -> Path:
    """Write the same file for training and for testing; `names` has a * in the place of the part."""
    for part in ("train", "test"):
        file = root / names.replace("*", part)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content() if packed is None else packed)
    return root


LAYOUTS = [
    ("all_data_0_niid_0_keep_0_*_9.json", ""),
    ("*/all_data_0_niid_0_keep_0_*_9.json", ""),
    ("data/*/all_data_0_niid_0_keep_0_*_9.json", ""),
    ("data/*/all_data_0_niid_0_keep_0_*_9.json", "data"),
    ("data/*/all_data_0_niid_0_keep_0_*_9.json", "data/train"),
    ("*/mine.json", ""),
]


@pytest.mark.parametrize(("names", "given"), LAYOUTS)
def test_the_files_are_found(tmp_path: Path, names: str, given: str) -> None:
    found = femnist.load(laid(tmp_path, names) / given)
    assert (len(found.train), len(found.test)) == (5, 5)
    assert found.owners is not None
    np.testing.assert_array_equal(found.owners, [1, 1, 1, 0, 0])


def test_compressed_files_are_read(tmp_path: Path) -> None:
    packed = gzip.compress(content())
    assert len(femnist.load(laid(tmp_path, "data/*/all_data_*_9.json.gz", packed)).train) == 5


@pytest.mark.parametrize(
    ("packed", "told"),
    [
        (content()[:-50], "not LEAF's FEMNIST: JSONDecodeError: "),
        (b"", "not LEAF's FEMNIST: JSONDecodeError: Expecting value"),
        (b"[]", "not LEAF's FEMNIST: TypeError: "),
        (b"{}", "not LEAF's FEMNIST: KeyError: 'users'"),
        (b'{"users": ["w1"], "user_data": {}}', "not LEAF's FEMNIST: KeyError: 'w1'"),
        (content(255), "ValueError: pixels must be 0.0 to 1.0, not 255 to 255; divide them by 255"),
        (content(255.0), "ValueError: pixels must be 0.0 to 1.0, not 255 to 255; divide them by 255"),
        (content(-0.5), "ValueError: pixels must be 0.0 to 1.0, not -0.5 to -0.5"),
        (content("a"), "not LEAF's FEMNIST: ValueError: "),
        (content(label=62), "ValueError: labels must be 0 to 61"),
    ],
)
def test_broken_files_are_told_in_one_sentence(tmp_path: Path, packed: bytes, told: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        femnist.load(laid(tmp_path, "*/all_data_*_9.json", packed))
    assert told in str(caught.value)
    assert "train/all_data_train_9.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [b"no gzip", gzip.compress(content())[:60], gzip.compress(b"{")])
def test_broken_compressed_files_are_told(tmp_path: Path, packed: bytes) -> None:
    with pytest.raises(ScenarioError, match=r"train\.json\.gz: not LEAF's FEMNIST: "):
        femnist.load(laid(tmp_path, "*/all_data_0_*.json.gz", packed))


def test_what_is_there_instead_is_told(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"; there is no such folder$"):
        femnist.load(tmp_path / "gone")
    (tmp_path / "images.zip").touch()
    with pytest.raises(ScenarioError, match=r"; it has images\.zip$"):
        femnist.load(tmp_path)
    laid(tmp_path, "data/all_data/all_data_0.json")
    with pytest.raises(
        ScenarioError, match=r"all_data, which LEAF's preprocess\.sh divides into train and test"
    ):
        femnist.load(tmp_path)
