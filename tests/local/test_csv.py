"""CSV files become the samples that they hold, or are refused in one sentence with file and line."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.local import read_csv
from scenarios.task import Split

CLASSES = ("idle", "walk", "run")
names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8).filter(
    lambda name: name.strip() == name and not name.startswith("\ufeff")
)
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


def read(folder: Path, text: str, **options: str) -> Split:
    (folder / "a.csv").write_text(text, encoding="utf-8")
    return read_csv(folder, features=["x", "y"], label="kind", classes=CLASSES, **options)


@given(data=st.data())
def test_what_is_written_is_what_is_read(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    columns = data.draw(st.lists(names, min_size=2, max_size=5, unique=True))
    classes = data.draw(st.lists(names, min_size=1, max_size=4, unique=True))
    row = st.tuples(
        st.lists(numbers, min_size=len(columns) - 1, max_size=len(columns) - 1), st.sampled_from(classes)
    )
    rows = data.draw(st.lists(row, max_size=8))
    order = data.draw(st.permutations(range(len(columns))))
    delimiter = data.draw(st.sampled_from(",;\t"))
    *features, label = columns
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerow([columns[place] for place in order])
    for values, kind in rows:
        cells = [*map(repr, values), kind]
        writer.writerow([cells[place] for place in order])
    file = tmp_path_factory.mktemp("csv") / "rows.csv"
    file.write_text(
        written.getvalue(), encoding=data.draw(st.sampled_from(["utf-8", "utf-8-sig"])), newline=""
    )
    split = read_csv(file, features=features, label=label, classes=classes, delimiter=delimiter)
    assert split.inputs.dtype == torch.float32
    assert split.inputs.tolist() == [values for values, _ in rows]
    assert split.targets.tolist() == [classes.index(kind) for _, kind in rows]


def test_the_files_of_a_folder_follow_one_another_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.CSV").write_text("y,kind,x\n3,run,4\n")
    (tmp_path / ".hidden.csv").write_text("nothing of ours")
    (tmp_path / "notes.txt").write_text("nor this")
    split = read(tmp_path, "x,y,kind,note\n1,2,idle,a\n\n 5 , 6 , walk ,b\n")
    assert split.inputs.tolist() == [[1, 2], [5, 6], [4, 3]]
    assert split.targets.tolist() == [0, 1, 2]


def test_labels_may_be_whole_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,label\n1,0\n2,2.0\n3,1\n")
    split = read_csv(tmp_path, features=["x"], label="label", classes=3)
    assert split.targets.tolist() == [0, 2, 1]


def test_targets_may_be_numbers_tags_or_several_of_these(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,price,size,new,kind\n1,2.5,3,1,run\n2,-4,5e-3,0,idle\n")
    one = read_csv(tmp_path, features=["x"], numbers="price")
    assert (one.targets.dtype, one.targets.tolist()) == (torch.float32, [2.5, -4.0])
    two = read_csv(tmp_path, features=["x"], numbers=["size", "price"])
    assert torch.equal(two.targets, torch.tensor([[3, 2.5], [5e-3, -4]]))
    assert read_csv(tmp_path, features=["price"], tags=["new"]).targets.tolist() == [[1], [0]]
    both = read_csv(tmp_path, features=["x"], numbers="size", label="kind", classes=CLASSES, tags=["new"])
    assert both.inputs.tolist() == [[1], [2]]
    assert {name: each.tolist() for name, each in both.targets.items()} == {
        "label": [2, 0],
        "numbers": pytest.approx([3, 5e-3]),
        "tags": [[1], [0]],
    }
    with pytest.raises(ValueError, match="read_csv needs columns of targets: label, numbers or tags"):
        read_csv(tmp_path, features=["x"])


@pytest.mark.parametrize(
    ("targets", "told"),
    [
        ({"numbers": "kind"}, r"a\.csv, line 2: kind is no number: 'run'; every row needs all numbers"),
        ({"tags": ["x", "new"]}, r"a\.csv, line 3: x is '2', it must be a whole number from 0 to 1"),
        ({"numbers": ["x", "prices"]}, r"names no column prices; did you mean 'price'\?"),
    ],
)
def test_targets_of_the_wrong_kind_are_told(tmp_path: Path, targets: Any, told: str) -> None:
    (tmp_path / "a.csv").write_text("x,price,new,kind\n1,2.5,1,run\n2,-4,0,idle\n")
    with pytest.raises(ScenarioError, match=told):
        read_csv(tmp_path, features=["x"], **targets)


@pytest.mark.parametrize("text", ["x,y,kind\n", "x,y,kind", ""])
def test_a_folder_without_rows_has_no_samples(tmp_path: Path, text: str) -> None:
    split = read(tmp_path, text) if text else read_csv(tmp_path, features=["x", "y"], label="kind", classes=3)
    assert split.inputs.shape == (0, 2)


WRONG = {
    "empty file": ("", ": is empty; its first line must name the columns x, y, kind"),
    "missing column": (
        "x,z,kind\n",
        ": the first line names no column y; it names: x, z, kind",
    ),
    "no header": ("1,2,idle\n", ": the first line names no column x; it names: 1, 2, idle"),
    "column twice": ("x,x,y,kind\n", ": the first line names x twice"),
    "another delimiter": (
        "x;y;kind\n1;2;idle\n",
        ": the columns seem to be divided by ';': read_csv(..., delimiter=';')",
    ),
    "a word": (
        "x,y,kind\n1,two,idle\n",
        ", line 2: y is no number: 'two'; every row needs all numbers",
    ),
    "a decimal comma": (
        'x,y,kind\n1,"2,5",idle\n',
        ", line 2: y is no number: '2,5'; every row needs all numbers",
    ),
    "an empty cell": ("x,y,kind\n1,,idle\n", ", line 2: y is empty; every row needs all numbers"),
    "nan": ("x,y,kind\n1,2,idle\nnan,2,idle\n", ", line 3: x is nan, it must be a finite number (float32)"),
    "infinity": ("x,y,kind\n1,-inf,idle\n", ", line 2: y is -inf, it must be a finite number (float32)"),
    "too large": ("x,y,kind\n1,1e39,idle\n", ", line 2: y is 1e39, it must be a finite number (float32)"),
    "a short row": ("x,y,kind\n1,2\n", ", line 2: 2 cells, but the first line names 3"),
    "a long row": ("x,y,kind\n1,2,idle,4\n", ", line 2: 4 cells, but the first line names 3"),
    "another class": (
        "x,y,kind\n1,2,wlak\n",
        ", line 2: kind is 'wlak', which is no class; did you mean 'walk'? the classes are: idle, walk, run",
    ),
    "a quotation": ('x,y,kind\n1,2,"idle\n', ": cannot be read as CSV in UTF-8: unexpected end of data"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_told_with_file_and_line(tmp_path: Path, name: str) -> None:
    text, told = WRONG[name]
    with pytest.raises(ScenarioError) as caught:
        read(tmp_path, text)
    assert str(caught.value) == f"{tmp_path / 'a.csv'}{told}"


@pytest.mark.parametrize("label", ["3", "-1", "0.5", "one", "nan", ""])
def test_a_label_that_is_no_class_is_refused(tmp_path: Path, label: str) -> None:
    (tmp_path / "a.csv").write_text(f"x,label\n1,{label}\n")
    with pytest.raises(ScenarioError, match=r"line 2: label is '.*', it must be a whole number from 0 to 2"):
        read_csv(tmp_path, features=["x"], label="label", classes=3)


@given(content=st.binary(max_size=60))
def test_whatever_a_file_holds_it_is_read_or_refused(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    file.write_bytes(b"x,y,kind\n" + content)
    told = str(file)
    try:
        split = read_csv(file, features=["x", "y"], label="kind", classes=CLASSES)
    except ScenarioError as error:
        told = str(error)
    else:
        assert np.isfinite(split.inputs.numpy()).all()
    assert told.startswith(str(file))


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"^task\.data: no such file or folder: .*gone$"):
        read_csv(tmp_path / "gone", features=["x"], label="y", classes=2)
