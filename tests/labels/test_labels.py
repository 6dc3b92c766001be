"""What `fedlite data plot` shows is what clients get."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.patches import StepPatch
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.codecs.targets import Labels, Numbers, Output, Probabilities, Tags
from sim.labels.counts import MOST, OTHERS, LabelCounts, count_labels
from sim.labels.plot import _draw, write_plot
from tests.helpers import small_file


@given(targets=st.lists(st.integers(-1, 40), min_size=2, max_size=60), clients=st.integers(1, 5))
def test_every_row_of_a_client_is_counted_in_its_class(targets: list[int], clients: int) -> None:
    labels = np.array(targets)
    shares = np.array_split(np.arange(len(labels)), clients)
    counts = count_labels(Labels(40), labels, shares, [f"c{number}" for number in range(clients)])
    assert counts.samples.tolist() == [len(rows) for rows in shares]
    assert len(counts.labels) <= MOST + 1
    for rows, mine, classes in zip(shares, counts.table, counts.classes, strict=True):
        known = labels[rows][(labels[rows] >= 0) & (labels[rows] < 40)]
        assert classes == len(np.unique(known))
        assert mine.sum() == len(known)
        for label, count in zip(counts.labels, mine, strict=True):
            if label != OTHERS:
                assert count == (labels[rows] == int(label)).sum()


def test_of_many_classes_the_commonest_are_told_apart() -> None:
    labels = np.repeat(np.arange(30), np.arange(30) + 1)
    counts = count_labels(Labels(30), labels, [np.arange(len(labels))], ["c"])
    assert list(counts.labels) == [*map(str, range(30 - MOST, 30)), OTHERS]
    assert counts.table[0, -1] == sum(range(1, 30 - MOST + 1))


def test_each_kind_of_target_is_counted_in_its_way() -> None:
    shares = [np.array([0, 1]), np.array([2])]

    def table(kind: Output, targets: Any) -> list[list[int]]:
        found: list[list[int]] = count_labels(kind, np.array(targets), shares, "ab").table.tolist()
        return found

    assert table(Tags(3), [[1, 0, 1], [1, 0, 0], [0, 0, 1]]) == [[2, 0, 1], [0, 0, 1]]
    assert table(Labels(4, (2,)), [[1, 2], [1, 3], [0, 0]]) == [[0, 2, 1, 1], [2, 0, 0, 0]]
    assert table(Probabilities(2), [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]]) == [[1, 1], [0, 1]]
    assert table(Numbers(), [0.5, 1.5, 2.5]) == [[2], [1]]


def a_few(clients: int) -> LabelCounts:
    table = np.arange(2 * clients).reshape(clients, 2) + 1
    names = [f"<c{number}>" for number in range(clients)]
    return LabelCounts(names, table.sum(1), np.full(clients, 2), ["0", "1"], table)


@pytest.mark.parametrize("clients", [1, 3, 200])
def test_bars_are_as_high_as_a_client_has_labels(clients: int) -> None:
    counts = a_few(clients)
    [axes] = _draw("title", counts).axes
    drawn = [patch.get_data() for patch in axes.patches if isinstance(patch, StepPatch)]
    heights = [tops - np.asarray(floor) for tops, _, floor in drawn]
    assert np.array_equal(np.column_stack(heights), counts.table)


@pytest.mark.parametrize(
    ("kind", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("html", b"<!doctype html>")]
)
def test_the_same_counts_give_the_same_file(tmp_path: Path, kind: str, begins: bytes) -> None:
    for name in ("one", "two"):
        write_plot(tmp_path / f"{name}.{kind}", "<b>", a_few(3))
    one = (tmp_path / f"one.{kind}").read_bytes()
    assert one == (tmp_path / f"two.{kind}").read_bytes()
    assert one.startswith(begins)
    assert b"<b>" not in one


def test_the_command_tells_in_words_and_draws(tmp_path: Path) -> None:
    words = ["data", "plot", str(small_file(tmp_path)), "--set=task.partition={classes_per_client: 1}"]
    told = CliRunner().invoke(app, [*words, "--to", str(tmp_path / "who.svg")])
    assert told.exit_code == 0, told.output
    assert "4 clients have 200 of 200 rows:" in told.output
    assert ", 1 classes" in told.output
    assert (tmp_path / "who.svg").is_file()
    told = CliRunner().invoke(app, [*words, "--to", "who.gif"])
    assert told.exit_code == 2
    assert told.output == "error: who.gif: its name must end in .html, .svg, .png or .pdf\n"
