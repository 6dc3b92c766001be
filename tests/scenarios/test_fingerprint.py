"""Fingerprints of a task's code: what changes them, and what does not."""

from dataclasses import replace
from pathlib import Path

import pytest

from scenarios import fingerprint
from scenarios.fingerprint import model_fingerprint
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from tests.helpers import small_scenario

SMALL_TASK = (Path(__file__).parents[1] / "small_task.py").read_text()


def of(scenario: Scenario) -> list[str]:
    """Give the digests of parameters and of source."""
    return model_fingerprint(scenario, task_of(scenario)).split("-")


def own(tmp_path: Path, text: str) -> list[str]:
    """Give the fingerprint of a user's task with this text."""
    file = tmp_path / "task.py"
    file.write_text(text)
    return of(small_scenario(tmp_path, f"task.module={file}"))


def test_it_is_short_and_the_same_each_time(tmp_path: Path) -> None:
    one = own(tmp_path, SMALL_TASK)
    assert one == own(tmp_path, SMALL_TASK)
    assert [len(digest) for digest in one] == [8, 8]


def test_a_tanh_for_a_relu_is_another_source_of_the_same_parameters(tmp_path: Path) -> None:
    relu, tanh = own(tmp_path, SMALL_TASK), own(tmp_path, SMALL_TASK.replace("nn.ReLU", "nn.Tanh"))
    assert relu[0] == tanh[0]
    assert relu[1] != tanh[1]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nn.Linear(8, 16)", "nn.Linear(8, 16, bias=False)"),
        ("nn.Sequential(nn.Linear(8, 16), ", "nn.Sequential(nn.Identity(), nn.Linear(8, 16), "),
    ],
)
def test_other_parameters_or_other_names_are_noticed(tmp_path: Path, old: str, new: str) -> None:
    assert own(tmp_path, SMALL_TASK)[0] != own(tmp_path, SMALL_TASK.replace(old, new))[0]


def test_another_dtype_is_noticed(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    task = task_of(scenario)
    double = replace(task, head=lambda: task.head().double())
    assert model_fingerprint(scenario, task) != model_fingerprint(scenario, double)


def test_the_place_of_the_file_and_its_line_ends_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    elsewhere = tmp_path / "folder/other_name.py"
    elsewhere.write_bytes(SMALL_TASK.replace("\n", "\r\n").encode())
    assert of(small_scenario(tmp_path, f"task.module={elsewhere}")) == own(tmp_path, SMALL_TASK)


def test_a_module_that_is_imported_has_the_fingerprint_of_its_file(tmp_path: Path) -> None:
    assert of(small_scenario(tmp_path, "task.module=tests.small_task")) == own(tmp_path, SMALL_TASK)


@pytest.mark.parametrize(
    ("version", "same"), [("0.1.1", True), ("0.1.0.dev3", True), ("0.2.0", False), ("1.1.0", False)]
)
def test_a_built_in_task_changes_with_minor_releases_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, *, same: bool
) -> None:
    settings = ("flows={}", "task={name: digits28, module: null}")
    monkeypatch.setattr(fingerprint, "package_version", lambda: "0.1.0")
    before = of(small_scenario(tmp_path, *settings))
    monkeypatch.setattr(fingerprint, "package_version", lambda: version)
    assert (of(small_scenario(tmp_path, *settings)) == before) is same


def test_fedavg_trains_other_parameters_than_split(tmp_path: Path) -> None:
    split, whole = of(small_scenario(tmp_path)), of(small_scenario(tmp_path, "training.method=fedavg"))
    assert split[0] != whole[0]
    assert split[1] == whole[1]
