"""A machine is measured, and what was measured can be named by a scenario."""

import itertools
import math
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from edge_client.training.calibrate import device_profile, timed_batches
from edge_client.training.companions import CompanionError, others_at_work
from scenarios.loading.load import load_scenario
from scenarios.schema.devices import DeviceProfile
from scenarios.schema.network import ServerModel
from server_node.calibrate import ALL, CLOSE, ONE, UPDATE, server_model, timed_rounds
from sim.commands.calibrate import why_not_quiet
from tests.helpers import small_file, small_scenario

runner = CliRunner()


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("sim.commands.calibrate.PAUSE_S", 0.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def calibrate(folder: Path, *options: str) -> tuple[Path, str]:
    file = folder / "profiles" / "machine.yaml"
    command = ["calibrate", str(small_file(folder)), f"--out={file}", "--repeat=3", *options]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    return file, result.stdout


def test_a_measured_device_can_be_named(tmp_path: Path) -> None:
    file, said = calibrate(tmp_path)
    assert f"{file} can stand for a group's device in a scenario" in said
    (group,) = load_scenario(small_file(tmp_path), [f"fleet=[{{count: 4, device: {file}}}]"]).fleet
    assert isinstance(group.device, DeviceProfile)
    assert group.device.batch_size == 10
    for name in ("forward_s", "encode_s", "decode_s", "backward_s"):
        assert 0 < getattr(group.device, name) < math.inf
    for word in ("cores", "1 thread", f"torch {torch.__version__}", "corners", "pq 4 1 4", "gradient int8"):
        assert word in group.device.source


def test_the_whole_model_is_measured_for_fedavg(tmp_path: Path) -> None:
    file, _ = calibrate(tmp_path, "--set=training.method=fedavg")
    settings = [f"fleet=[{{count: 4, device: {file}}}]", "training.method=fedavg"]
    (group,) = load_scenario(small_file(tmp_path), settings).fleet
    assert isinstance(group.device, DeviceProfile)
    for name in ("forward_s", "backward_s", "whole_model_s"):
        assert 0 < getattr(group.device, name) < math.inf


def test_the_last_layers_are_measured_for_a_u_shape(tmp_path: Path) -> None:
    task = f"--set=task.module={Path(__file__).parents[1] / 'u_task.py'}"
    file, _ = calibrate(tmp_path, "--set=training.method=u_shape", task)
    device = DeviceProfile.model_validate(yaml.safe_load(file.read_text()))
    for name in ("forward_s", "backward_s", "top_s"):
        assert 0 < getattr(device, name) < math.inf
    assert device.whole_model_s is None
    file, _ = calibrate(tmp_path, "--server", "--set=training.method=u_shape", task)
    assert ServerModel.model_validate(yaml.safe_load(file.read_text())).update_s > 0


def test_a_measured_server_can_be_named(tmp_path: Path) -> None:
    file, said = calibrate(tmp_path, "--server", "--threads=1")
    assert f"{file} can stand for network.server in a scenario" in said
    server = load_scenario(small_file(tmp_path), [f"network.server={file}"]).network.server
    assert server.tail_batch_s + server.tail_sample_s > 0
    assert 0 < server.update_s < math.inf
    assert 0 < server.close_s < math.inf


def test_the_file_has_these_keys(tmp_path: Path) -> None:
    device = yaml.safe_load(calibrate(tmp_path)[0].read_text())
    assert list(device) == ["batch_size", "forward_s", "encode_s", "decode_s", "backward_s", "source"]
    server = yaml.safe_load(calibrate(tmp_path, "--server")[0].read_text())
    assert list(server) == ["tail_batch_s", "tail_sample_s", "update_s", "close_s", "link", "source"]


def test_the_phases_of_a_batch_become_a_profile(tmp_path: Path) -> None:
    seconds = {"compute": 0.1, "encode": 0.2, "decode": 0.3, "backward": 0.4}
    assert device_profile(small_scenario(tmp_path), seconds, "here") == DeviceProfile(
        batch_size=10, forward_s=0.1, encode_s=0.2, decode_s=0.3, backward_s=0.4, source="here"
    )


def test_a_device_is_measured_with_as_many_at_work_as_will_be(tmp_path: Path) -> None:
    file, _ = calibrate(tmp_path, "--at-work=2")
    assert "2 processes at work" in DeviceProfile.model_validate(yaml.safe_load(file.read_text())).source
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_the_others_compute_until_it_has_been_measured(tmp_path: Path) -> None:
    with others_at_work(1, small_scenario(tmp_path), threads=1):
        (other,) = map(psutil.Process, (child.pid for child in multiprocessing.active_children()))
        before_s = other.cpu_times().user
        deadline_s = time.monotonic() + 20
        while other.cpu_times().user < before_s + 0.1:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
    assert not other.is_running()


@pytest.mark.slow
def test_a_process_beside_it_that_ends_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(CompanionError, match="1 of 1 processes beside this one ended with 1"),
        others_at_work(1, small_scenario(tmp_path), threads=0),  # torch wants at least one
    ):
        pytest.fail("nobody is at work")
    capfd.readouterr()


def test_two_passes_through_the_tail_give_a_line(tmp_path: Path) -> None:
    seconds = {ONE: 0.5, ALL: 1.0, UPDATE: 0.25, CLOSE: 0.125}  # 10 and 30 samples
    assert server_model(small_scenario(tmp_path), seconds, "here") == ServerModel(
        tail_batch_s=0.25, tail_sample_s=0.025, update_s=0.25, close_s=0.125, source="here"
    )


def test_batches_are_measured_without_teaching_the_head(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path)
    for seconds in itertools.islice(timed_batches(scenario, 0.0), 3):
        assert list(seconds) == ["decode", "compute", "encode", "backward"]
    for seconds in itertools.islice(timed_rounds(scenario, 0.0), 3):
        assert list(seconds) == [ONE, ALL, UPDATE, CLOSE]


@given(st.lists(st.floats(0.9, 1.1), min_size=8, max_size=40), st.floats(0.9, 2.0))
def test_times_that_agree_on_a_core_of_ones_own_are_not_doubted(factors: list[float], cpu: float) -> None:
    seconds = {"compute": [0.02 * factor for factor in factors], "encode": [0.001] * len(factors)}
    assert why_not_quiet(seconds, cpu * sum(map(sum, seconds.values())) + 1e-9) is None
    assert why_not_quiet(seconds, None) is None


@given(st.floats(0.0, 0.89))
def test_a_core_that_others_have_too_is_told(cpu: float) -> None:
    seconds = {"compute": [0.02] * 10}
    assert "had a core for" in (why_not_quiet(seconds, cpu * 0.2) or "")


def test_times_that_do_not_agree_are_told() -> None:
    seconds = {"compute": [0.01, 0.02, 0.03] * 5, "encode": [0.001] * 15}
    assert "times of compute spreads" in (why_not_quiet(seconds, 1.0) or "")


EARLY = "--set=fleet=[{count: 2}, {count: 2, cut: '0'}]"


def test_a_device_with_an_early_cut_is_measured_with_it(tmp_path: Path) -> None:
    file, _ = calibrate(tmp_path, EARLY, "--cut=0")
    (group,) = load_scenario(small_file(tmp_path), [f"fleet=[{{count: 4, cut: '0', device: {file}}}]"]).fleet
    assert isinstance(group.device, DeviceProfile)
    assert group.device.cut == "0"
    for name in ("forward_s", "encode_s", "decode_s", "backward_s"):
        assert 0 < getattr(group.device, name) < math.inf


WIDE = """
from dataclasses import replace
from torch import nn
from tests import small_task

def task():
    def head():
        large = nn.Linear(16, 3000), nn.Linear(3000, 3000), nn.Linear(3000, 16)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), *large)
    return replace(small_task.task(), head=head)
"""


def test_an_early_cut_is_a_part_of_the_head(tmp_path: Path) -> None:
    task = tmp_path / "wide.py"
    task.write_text(WIDE)
    settings = ("flows={}", f"task.module={task}", "fleet=[{count: 4, cut: '0'}]")
    scenario = small_scenario(tmp_path, *settings)
    medians = []
    for cut in ("0", None):
        times = itertools.islice(timed_batches(scenario, 0.0, cut), 12)
        medians.append(sorted(each["compute"] + each["backward"] for each in times)[6])
    assert medians[0] < 0.5 * medians[1]


def test_the_server_measures_the_head_only_for_early_cuts(tmp_path: Path) -> None:
    file, said = calibrate(tmp_path, "--server", EARLY)
    assert yaml.safe_load(file.read_text())["head_sample_s"] > 0
    assert "head, one batch" in said
    file, said = calibrate(tmp_path, "--server")
    assert "head_sample_s" not in yaml.safe_load(file.read_text())
    assert "head, one batch" not in said


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cut=1", EARLY], "--cut: no group of the fleet has the cut '1'; there are: 0"),
        (["--cut=0", EARLY, "--server"], "--cut is of a device; --server measures"),
    ],
)
def test_a_cut_that_does_not_fit_is_told(tmp_path: Path, options: list[str], told: str) -> None:
    result = runner.invoke(app, ["calibrate", str(small_file(tmp_path)), *options])
    assert result.exit_code == 2
    assert result.output.startswith(f"error: {told}")
