"""debtags: its conversion and its task."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.data import debian
from scenarios.data.cache import write_arrays
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.models import tags
from scenarios.tasks import debtags
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.small_data import KINDS, losses, write_archive


@pytest.fixture
def archive(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fetch a small archive by an apt that is made here; give the data's folder."""
    write_archive(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    result = CliRunner().invoke(app, ["data", "fetch", "debtags"])
    assert result.output.splitlines()[-1] == (
        "debtags: 240 packages of 4 maintainers from Debian bookworm Sat, 11 Jul 2026 10:16:37 UTC, in "
        f"{cache / 'debtags'}"
    )
    return cache / "debtags"


def test_fetched_packages_are_what_the_task_reads(archive: Path) -> None:
    assert [file.name for file in archive.iterdir()] == ["packages.npz"]
    data = debtags.task(None).load()
    assert data.train.inputs.dtype == torch.int32
    assert data.train.targets.shape == (216, debtags.TAGS)
    assert data.test.targets.shape == (24, debtags.TAGS)
    assert set(data.train.targets.sum(dim=1).tolist()) == {2}
    assert data.owners is not None
    assert np.bincount(data.owners).tolist() == pytest.approx([54] * 4, abs=6)


def test_easy_tags_names_and_addresses_are_not_kept(archive: Path) -> None:
    with np.load(archive / "packages.npz", allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    assert arrays["tags"].tolist() == sorted(
        [f"use::{kind}" for kind in KINDS] + [f"works-with::{kind}" for kind in KINDS[:5]]
    )
    assert arrays["maintainers"].tolist() == [n % 4 for n in range(240)]
    assert {"editor", "thing", "people"} <= set(arrays["words"].tolist())
    assert "program" not in arrays["words"]  # a tag is no text
    assert not any(b"example" in array.tobytes().replace(b"\0", b"") for array in arrays.values())


def test_packages_of_one_source_are_all_trained_on_or_all_tested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "MIN_ROWS_OF_WORD", 1)
    write_archive(tmp_path / "bin")
    index = [tmp_path / "bin/debian_Packages"], [tmp_path / "bin/debian_Translation-en"]
    write_arrays(tmp_path / "packages.npz", debian.convert(*index, []))
    data = debtags.load(tmp_path)
    # every description has a word of its source's alone, and words that no training row has are not numbered
    trained, tested = ((rows.inputs > 0).sum(dim=1) for rows in (data.train, data.test))
    assert set((trained - 1).tolist()) == set(tested.tolist())


def test_an_index_without_tags_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Packages").write_text("Package: a\nMaintainer: b\nDescription: c\n")
    with pytest.raises(ScenarioError, match="no package of the index has tags"):
        debian.convert([tmp_path / "Packages"], [], [])


def test_numbers_go_to_the_words_commonest_in_the_rows_counted() -> None:
    ids, counts = np.array([4, 2, 2, 4, 0, 1, 1]), np.array([2, 0, 3, 2])
    rows = tags.numbered(ids, counts, np.array([True, True, True, False]), most=2, longest=9)
    assert rows.tolist() == [
        [1, 2],
        [0, 0],
        [1, 2],
        [0, 0],
    ]  # 2 and 4 come twice, 1 only where nothing counts


def test_recall_at_5_is_the_share_of_tags_among_the_five_best_guesses() -> None:
    outputs = torch.arange(debtags.TAGS, 0.0, -1).repeat(2, 1)
    targets = torch.zeros(2, debtags.TAGS, dtype=torch.int64)
    targets[0, [0, 4, 5]] = 1
    targets[1, [2]] = 1
    assert tags.score(outputs, targets).tolist() == [pytest.approx(2 / 3), 1.0]


def test_a_bag_of_words_is_a_dense_layer_on_the_words_that_there_are() -> None:
    head = tags.Head(debtags.VOCABULARY)
    weight = head.words.weight.detach()
    with torch.no_grad():
        z = head(torch.tensor([[3, 7, 0], [0, 0, 0]], dtype=torch.int32))
    assert torch.allclose(z[0], (weight[3] + weight[7]).relu())
    assert torch.equal(z[1], torch.zeros(tags.WIDTH))


def test_the_tag_model_has_its_sizes_and_learns(archive: Path) -> None:
    task = debtags.task(archive)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 640_256
    assert sum(parameter.numel() for parameter in tail.parameters()) == 51_600
    found = losses(task, task.load(), steps=20, lr=0.3)
    assert found[-1] < found[0] * 0.7


def test_packages_that_do_not_fit_together_are_refused(archive: Path) -> None:
    with np.load(archive / "packages.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    arrays["tag_counts"][0] += 1
    write_arrays(archive / "packages.npz", arrays)
    with pytest.raises(ScenarioError, match="its columns do not fit together"):
        debtags.load(archive)


def test_debtags_is_learned_over_the_wire(tmp_path: Path, archive: Path) -> None:
    small = ["training.rounds=2", "training.cohort=2", "training.evaluate_every=2", "fleet.0.count=4"]
    summary = simulate(load_scenario("debtags", [*small, f"task.path={archive}"]), tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["messages"]["rejected"] == 0
    assert summary["metric"]["final"] is not None
