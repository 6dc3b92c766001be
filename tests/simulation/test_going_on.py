"""A simulated run that is stopped or killed goes on, and comes out as if it had never been interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import AnotherServerError, CannotGoOnError, RunError
from broker.exits import COMPLETE, STOPPED
from broker.stopping import Stop
from broker.wire.messages import HeadUpdate
from edge_client.jobs import TopStep
from scenarios.local import write_share
from scenarios.schema.scenario import Scenario
from server_node import checkpoint
from server_node.ownership import alone_in
from server_node.progress import standing_of as live_standing_of
from server_node.saver import SHARE, Pace
from server_node.summary import Summary
from server_node.vocabulary.jobs import CloseRound, ScoreBatches
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.simulation import workers
from sim.simulation.moment import Simulated, newest, standing_of
from sim.simulation.recorder import Hollow, Recorder
from sim.simulation.run import simulate
from sim.simulation.saving import PATIENCE_S, Saving
from tests.helpers import small_file, small_scenario
from tests.small_task import points

DEVICE = "{forward_s: 1, encode_s: 0.5, decode_s: 0.25, backward_s: 2, batch_size: 10, whole_model_s: 3}"
STEADY = f"{{count: 2, link: lte, device: {DEVICE}, slowdown: {{distribution: lognormal, sigma: 0.5}}}}"
SHY = "{count: 2, link: 3g, via: home, availability: {pattern: on_off, mean_on_s: 20, mean_off_s: 5}}"
LOSSY = f"{{count: 2, device: {DEVICE}, link: {{latency_ms: 50, jitter_ms: 20, loss: 0.1, uplink_kbps: 50}}}}"
WORLD = (
    f"fleet=[{STEADY}, {SHY}, {LOSSY}]",
    "network.access_points={home: {uplink_kbps: 500, downlink_kbps: 500}}",
    "network.server={tail_batch_s: 0.01, link: wifi}",
    "network.broker={per_message_us: 30, keepalive_s: 2}",
    "training.rounds=5",
    "training.evaluate_every=2",
)
POLICIES = (
    "{policy: wait_all, rejoin_s: 0.5, retry_s: 2}",
    "{policy: deadline, deadline_s: 5, minimum: 1, rejoin_s: 3}",
    "{policy: over_select, extra: 2}",
    "{policy: buffered, buffer: 2, max_staleness: 2}",
)
CODECS = (
    (),
    ("flows.activations_up.codec=float32", "flows.gradient_down.codec=float32"),
    ("flows.gradient_down={codec: codeword_mean, bits: 8}", "flows.head_state_down.codec=float32"),
    (
        "flows.activations_up={codec: coded_pq, subvectors: 4, centroids: 4}",
        "flows.head_update_up={codec: topk, fraction: 0.2}",
        "flows.error_feedback=true",
    ),
    ("flows.by_link=[{uplink_below_kbps: 100, activations_up: {codec: float32}}]",),
    ("flows.head_since=last", "flows.head_state_down={codec: low_rank, rank: 1}"),
)
FOLDER = Path(__file__).parents[1]
KEPT = ("task.partition=local", "task.held_out=0.4")
U_SHAPE = ("training.local_steps=2", "training.method=u_shape", f"task.module={FOLDER / 'u_task.py'}")
EARLY = (
    "training.local_steps=2",
    f"task.module={FOLDER / 'ladder_task.py'}",
    "fleet.0.cut=4",
    "flows.by_cut=[{cut: 4, activations_up: {codec: float32}, gradient_down: {codec: float16}}]",
)
METHODS = (
    ("training.local_steps=1",),
    ("training.local_steps=3", f"task.module={FOLDER / 'drifting_task.py'}"),
    ("training.local_steps=2", f"task.module={FOLDER / 'half_task.py'}"),
    ("training.local_steps=2", "training.aggregation=trimmed_mean", f"task.module={FOLDER / 'half_task.py'}"),
    ("training.local_steps=2", "training.aggregation=trimmed_mean"),
    ("training.local_steps=2", "training.aggregation=filtered_mean"),
    ("training.local_steps=2", "training.method=fedavg"),
    U_SHAPE,
    ("training.local_steps=2", "training.gradients_every=never", *KEPT),
    ("training.local_steps=2", "training.replay={rounds: 2, batches: 3}"),
    ("training.local_steps=3", "training.gradients_every=2", "training.head_optimizer={kind: adam}"),
    ("training.local_steps=2", *KEPT),
    (*EARLY, "training.head_optimizer={kind: adam}", "training.head_lr=0.01"),
    (*EARLY, "training.evaluate_every=1", *KEPT),
    ("training.aggregation=filtered_mean", "training.evaluate_every=1", *KEPT),
    (*U_SHAPE, "training.evaluate_every=1", *KEPT),
)
SAME = ("metrics.parquet", "trace.json", "model.safetensors")
WALL_CLOCK = {"wall_seconds", "training_seconds", "client_steps_per_second"}


class Killed(BaseException):
    """The process ends here, as far as a test is concerned."""


class After(Stop):
    """Asks to stop after so many events, or kills the run there; counts them."""

    def __init__(self, events: float, *, kills: bool = False) -> None:
        self.seen = 0
        self._events = events
        self._kills = kills
        super().__init__()

    @property
    def asked(self) -> bool:
        self.seen += 1
        if self.seen < self._events:
            return False
        if self._kills:
            raise Killed
        return True

    @asked.setter
    def asked(self, _value: bool) -> None:
        pass


def own_data(folder: Path) -> str:
    """Write samples of different numbers for each device; gives the setting that names them."""
    for number, samples in enumerate((60, 33, 12, 45, 25, 1)):
        write_share(folder / f"c{number}", points(samples, number + 1))
    return f"task.data={folder}"


def always() -> Pace:
    """Let each event take a second and each save another one."""
    return Pace(count().__next__)


def never() -> Pace:
    return Pace(lambda: 0.0, first_s=1.0)


def interrupted(scenario: Scenario, folder: Path, stop: Stop) -> None:
    """Run until it is stopped, killed or over."""
    try:
        simulate(scenario, folder, threads=1, stop=stop, pace=always())
    except Killed:
        assert not (folder / "summary.json").exists()


def comes_out_the_same(one: Path, other: Path) -> bool:
    """Compare what two runs left, apart from the times that they took."""
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    first, second = ({k: v for k, v in each.items() if k not in WALL_CLOCK} for each in summaries)
    assert first == second
    for name in SAME:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    return True


def anywhere(examples: int) -> settings:
    """Try so many places to stop, or as many as FEDLITE_STOPS says."""
    return settings(
        max_examples=int(os.environ.get("FEDLITE_STOPS", examples)),
        suppress_health_check=list(HealthCheck),
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # each example trains; shrinking takes minutes
    )


Stops = list[tuple[bool, float]]
"""Where runs end, as a share of all events, and whether they are killed there."""
STOPS = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=3)


def goes_on_as_without(stops: Stops, scenario: Scenario, folder: Path) -> bool:
    """Run once without and once with stops, and compare what comes out."""
    whole = After(float("inf"))
    simulate(scenario, folder / "whole", threads=1, stop=whole, pace=never())
    for kills, part in stops:
        interrupted(scenario, folder / "run", After(int(part * whole.seen), kills=kills))
    assert simulate(scenario, folder / "run", threads=2, pace=always())["reason"] == COMPLETE
    assert not list((folder / "run").glob("checkpoint*"))
    return comes_out_the_same(folder / "whole", folder / "run")


@anywhere(12)
@given(st.sampled_from(POLICIES), st.sampled_from(METHODS), st.sampled_from(CODECS), STOPS)
def test_a_run_goes_on_from_any_event_whatever_it_is(
    policy: str, method: tuple[str, ...], codecs: tuple[str, ...], stops: Stops
) -> None:
    assume(not ("flows.head_since=last" in codecs and "fleet.0.cut=4" in method))  # that is refused
    with TemporaryDirectory() as name:
        folder = Path(name)
        own = [own_data(folder / "own")] if KEPT[0] in method else []
        scenario = small_scenario(folder, *WORLD, f"stragglers={policy}", *method, *codecs, *own)
        assert goes_on_as_without(stops, scenario, folder)


@pytest.mark.parametrize(
    ("policy", "metric"), [*((policy, "null") for policy in POLICIES), (POLICIES[0], "perplexity")]
)
def test_a_run_goes_on_in_the_middle_of_an_evaluation(
    tmp_path: Path, policy: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_data(tmp_path / "own")
    settings = (f"stragglers={policy}", f"task.metric={metric}")
    scenario = small_scenario(tmp_path, *WORLD, *CODECS[1], *KEPT, own, *settings)
    whole, scored, take = After(float("inf")), list[int](), Recorder._take

    def note(self: Recorder, *taken: Any) -> Any:
        if isinstance(taken[-1], ScoreBatches):
            scored.append(whole.seen)
        return take(self, *taken)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_take", note)
        simulate(scenario, tmp_path / "whole", threads=1, stop=whole, pace=never())
    for events in (scored[0], scored[0] + 2, scored[-1]):
        folder = tmp_path / str(events)
        stopped(scenario, folder, events)
        found = newest(scenario, folder)
        assert found is not None
        out = [state.out for state in found[0].devices.values() if state.out is not None]
        assert any(each.assignment.first_step for each in out)
        simulate(scenario, folder, threads=1)
        assert comes_out_the_same(tmp_path / "whole", folder)


@pytest.mark.parametrize("policy", [POLICIES[0], POLICIES[-1]])
def test_a_run_goes_on_between_the_halves_of_a_step(
    tmp_path: Path, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a U-shape the server then has a batch that goes through the tail again, and a device features."""
    scenario = small_scenario(tmp_path, *WORLD, *U_SHAPE, f"stragglers={policy}", "training.rounds=3")
    whole, between, take = After(float("inf")), list[int](), Recorder._take

    def note(self: Recorder, *taken: Any) -> Any:
        if isinstance(taken[-1], TopStep):
            between.append(whole.seen)
        return take(self, *taken)

    with monkeypatch.context() as patch:
        patch.setattr(Recorder, "_take", note)
        simulate(scenario, tmp_path / "whole", threads=1, stop=whole, pace=never())
    features: list[object] = []
    for events in (between[len(between) // 2], between[-1]):
        folder = tmp_path / str(events)
        stopped(scenario, folder, events + 1)
        found = newest(scenario, folder)
        assert found is not None
        features += [state.out.features for state in found[0].devices.values() if state.out is not None]
        simulate(scenario, folder, threads=1)
        assert comes_out_the_same(tmp_path / "whole", folder)
    assert any(each is not None for each in features)


def test_what_devices_have_must_stay_and_its_place_may_change(tmp_path: Path) -> None:
    settings = (*WORLD, *KEPT, "training.rounds=8")
    scenario = small_scenario(tmp_path, *settings, own_data(tmp_path / "own"))
    simulate(scenario, tmp_path / "whole", threads=1)
    stopped(scenario, tmp_path / "run", 300)
    for client, split in (("c1", points(33, 9)), ("c5", points(2, 6))):  # other values, one more
        write_share(tmp_path / "own" / client, split)
    with pytest.raises(CannotGoOnError, match="the data of c1, c5 have changed since this run began; put"):
        simulate(scenario, tmp_path / "run")
    moved = small_scenario(tmp_path, *settings, own_data(tmp_path / "moved"))
    assert simulate(moved, tmp_path / "run")["reason"] == COMPLETE
    assert comes_out_the_same(tmp_path / "whole", tmp_path / "run")


LONGER = (*WORLD, *CODECS[1], "stragglers={policy: over_select, extra: 2}", "training.rounds=8")


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    """A small one with losses, whose tensors are too long to stay in the records."""
    return small_scenario(tmp_path, *LONGER)


def stopped(scenario: Scenario, folder: Path, *events: int) -> Summary:
    """Stop a run once or several times; give the last summary."""
    for each in events:
        summary = simulate(scenario, folder, threads=1, stop=After(each), pace=never())
        assert summary["reason"] == STOPPED
    return summary


def test_what_is_left_of_a_stopped_run_can_be_looked_at(tmp_path: Path, scenario: Scenario) -> None:
    summary = stopped(scenario, tmp_path / "run", 400)
    assert 0 < summary["rounds"] < 8
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "checkpoint.safetensors", "environment.json", "metrics.parquet", "model.safetensors", "scenario.yaml",
        "server.lock", "summary.json", "trace.json",
    }  # fmt: skip


def test_what_is_saved_does_not_hang_on_earlier_interruptions(tmp_path: Path, scenario: Scenario) -> None:
    stopped(scenario, tmp_path / "twice", 300, 200)
    stopped(scenario, tmp_path / "once", 500)
    moments = []
    for name in ("twice", "once"):
        found = newest(scenario, tmp_path / name)
        assert found is not None
        moments.append(found[0])
    twice, once = moments
    assert (twice.events, twice.now_s, twice.log) == (once.events, once.now_s, once.log)
    assert sorted(twice.tensors) == sorted(once.tensors)
    assert twice.devices.keys() == once.devices.keys()
    assert 0 < len(once.tensors) < 20


def test_rounds_are_told_once(tmp_path: Path, scenario: Scenario) -> None:
    told: list[int] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            told.append(fact.round)

    for events in (400, 200, 10**6):
        simulate(scenario, tmp_path / "run", threads=1, watch=watch, stop=After(events))
    assert told == list(range(1, 9))


def test_no_job_is_done_twice_after_a_stop(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []
    do = Recorder._do

    def note(self: Recorder, number: int, run: Callable[[Any], Any], job: Any) -> Any:
        did.append(f"{number} {type(job).__name__}")
        return do(self, number, run, job)

    monkeypatch.setattr(Recorder, "_do", note)
    simulate(scenario, tmp_path / "whole", threads=1)
    whole, did[:] = sorted(did), []
    for events in (300, 300, 10**6):
        simulate(scenario, tmp_path / "run", threads=1, stop=After(events))
    assert sorted(did) == whole


def test_the_one_before_is_used_when_the_newest_is_damaged_and_it_is_said(
    tmp_path: Path, scenario: Scenario, caplog: pytest.LogCaptureFixture
) -> None:
    simulate(scenario, tmp_path / "whole", threads=1)
    stopped(scenario, tmp_path / "run", 300, 200)
    newest = tmp_path / "run" / checkpoint.FILE
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    summary = simulate(scenario, tmp_path / "run")
    said = f"{newest} is damaged: its checksum is wrong"
    assert summary["damaged_checkpoints"] == [said]
    assert f"{said}; going on from the one before" in caplog.text
    for name in SAME:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "run" / name).read_bytes()


def test_a_full_disk_is_told_and_the_run_goes_on(
    tmp_path: Path, scenario: Scenario, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_options: object) -> None:
        raise RunError("cannot write it: No space left on device; make room")

    monkeypatch.setattr(checkpoint, "save", full)
    summary = simulate(scenario, tmp_path / "run", threads=1, pace=always())
    assert (summary["reason"], summary["rounds"]) == (COMPLETE, 8)
    assert summary["checkpoint_error"] == "cannot write it: No space left on device; make room"
    assert caplog.text.count("the run goes on without a checkpoint") == 1


def test_saving_takes_a_twentieth_of_the_time(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, saves = 0.0, list[tuple[float, int]]()

    def clock() -> float:
        nonlocal now_s
        now_s += 0.2  # between looks, of which there is one after each event
        return now_s

    def save(saving: Saving) -> None:
        nonlocal now_s
        saves.append((now_s, saving._run.rounds))
        now_s += 1.0

    monkeypatch.setattr(Saving, "_save", save)
    simulate(scenario, tmp_path / "run", threads=1, pace=Pace(clock, first_s=2.0))
    assert len(saves) > 2
    assert saves[0][0] >= 2.0
    assert all(later - earlier >= 1 + SHARE for (earlier, _), (later, _) in pairwise(saves))
    assert len({rounds for _, rounds in saves}) == len(saves)  # each at the end of another round


def test_a_long_round_is_saved_in_its_middle(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves: list[int] = []
    monkeypatch.setattr(Saving, "_save", lambda saving: saves.append(saving._run.rounds))
    looks = count(step=PATIENCE_S / 20)
    simulate(scenario, tmp_path / "run", threads=1, pace=Pace(looks.__next__))
    assert saves.count(1) > 1


@pytest.mark.parametrize("events", [60, 100])
def test_a_run_that_diverges_does_so_again_and_then_is_over(tmp_path: Path, events: int) -> None:
    scenario = small_scenario(tmp_path, *WORLD, "training.head_lr=1e30", "training.tail_lr=1e30")
    whole = simulate(scenario, tmp_path / "whole")
    stopped(scenario, tmp_path / "run", events)
    summary = simulate(scenario, tmp_path / "run")
    assert summary["reason"].startswith("diverged: round ")
    assert summary["reason"] == whole["reason"]
    assert comes_out_the_same(tmp_path / "whole", tmp_path / "run")
    finished = standing_of(scenario, tmp_path / "run", timing_only=False).finished
    assert finished is not None
    assert finished[1].startswith("already over, diverged: round ")


# Where a run stands before it begins.


def refuses_to_train(monkeypatch: pytest.MonkeyPatch) -> None:
    def train(*_args: object, **_options: object) -> Iterator[None]:
        pytest.fail("it trains")

    monkeypatch.setattr(workers, "training", train)


def simulated(folder: Path, *options: str) -> tuple[int, str, str]:
    """Call `fedlite simulate` on the small scenario; gives exit code, output, and errors."""
    command = ["simulate", str(small_file(folder)), f"--out={folder / 'run'}", "--set=training.rounds=3"]
    result = CliRunner().invoke(app, [*command, *options])
    return result.exit_code, result.stdout, result.stderr


def test_a_finished_run_says_so_and_trains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert simulated(tmp_path)[0] == 0
    before = {file: file.read_bytes() for file in (tmp_path / "run").iterdir()}
    with monkeypatch.context() as patch:
        refuses_to_train(patch)
        code, said, errors = simulated(tmp_path)
    assert (code, errors) == (0, "already complete: 3 rounds; --fresh begins anew\n")
    assert "results in" in said
    assert {file: file.read_bytes() for file in (tmp_path / "run").iterdir()} == before
    started = (tmp_path / "run/environment.json").stat().st_mtime_ns
    assert simulated(tmp_path, "--fresh")[0] == 0
    assert (tmp_path / "run/environment.json").stat().st_mtime_ns > started


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("training.rounds=6", "training.rounds was 8 and is 6 now"),
        ("network.broker.per_message_us=31", "network.broker.per_message_us was 30.0 and is 31.0 now"),
        ("name=other", 'name was "small" and is "other" now'),
    ],
)
def test_another_scenario_is_refused_and_the_keys_that_differ_are_named(
    tmp_path: Path, scenario: Scenario, setting: str, told: str, finished: bool
) -> None:
    simulate(scenario, tmp_path / "run", stop=After(10**6 if finished else 300))
    other = small_scenario(tmp_path, *LONGER, setting)
    with pytest.raises(CannotGoOnError) as caught:
        simulate(other, tmp_path / "run")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'run'} has the run of another scenario:",
        f"  {told}",
        "--fresh begins anew over it, --out names another folder",
    ]
    assert simulate(other, tmp_path / "run", fresh=True)["reason"] == COMPLETE


@pytest.mark.parametrize(("kind", "table"), [("sweep", "sweep.csv"), ("study", "results.md")])
def test_the_folder_of_a_sweep_or_a_study_is_refused(
    tmp_path: Path, scenario: Scenario, kind: str, table: str
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / table).write_text("as it was")
    with pytest.raises(CannotGoOnError, match=f"has a {kind}, not a run; --out names another folder"):
        simulate(scenario, folder)
    assert (folder / table).read_text() == "as it was"
    assert {file.name for file in folder.iterdir()} <= {table, "server.lock"}


def test_other_code_is_refused(tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(scenario, tmp_path / "run", 300)
    monkeypatch.setattr("sim.simulation.moment.package_version", lambda: "0.0.9")
    with pytest.raises(CannotGoOnError, match=r'code.fedlite was ".*" and is "0.0.9" now'):
        simulate(scenario, tmp_path / "run")


def test_code_that_lets_time_pass_otherwise_is_noticed(
    tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(scenario, tmp_path / "run", 300)
    monkeypatch.setattr("sim.network.links.link.INITIAL_WINDOW", 3)
    monkeypatch.setattr("server_node.protocol.round_trip.FIRST_WAIT_S", 2.0)
    with pytest.raises(CannotGoOnError, match="written by other code than this"):
        simulate(scenario, tmp_path / "run")


def test_a_checkpoint_that_is_no_moment_is_refused(tmp_path: Path, scenario: Scenario) -> None:
    stopped(scenario, tmp_path / "run", 300)
    header, tensors = checkpoint.load(tmp_path / "run" / checkpoint.FILE, Simulated)
    checkpoint.save(
        tmp_path / "run", header, tensors | {"moment": torch.tensor([0x91, 1], dtype=torch.uint8)}
    )
    with pytest.raises(CannotGoOnError, match="of another version: Expected `object`"):
        simulate(scenario, tmp_path / "run")


def test_live_and_simulated_runs_do_not_take_over_from_each_other(tmp_path: Path, scenario: Scenario) -> None:
    stopped(scenario, tmp_path / "run", 300)
    with pytest.raises(CannotGoOnError, match="has a checkpoint of a simulated run; --fresh"):
        live_standing_of(scenario, tmp_path / "run")
    live = checkpoint.Progress({}, [], Ledger())
    checkpoint.remove(tmp_path / "run")
    checkpoint.save(tmp_path / "run", live, {"head.weight": torch.zeros(1)})
    with pytest.raises(CannotGoOnError, match="has a checkpoint of a live run; --fresh"):
        simulate(scenario, tmp_path / "run")


def test_what_was_trained_is_not_lost_for_a_run_that_trains_nothing(
    tmp_path: Path, scenario: Scenario
) -> None:
    stopped(scenario, tmp_path / "run", 300)
    with pytest.raises(CannotGoOnError, match="has a run that trains and is not over"):
        simulate(scenario, tmp_path / "run", timing_only=True)
    simulate(scenario, tmp_path / "run")
    with pytest.raises(CannotGoOnError, match="has the results of a simulated run"):
        simulate(scenario, tmp_path / "run", timing_only=True)
    for timing_only in (True, True, False):  # what is quickly made again is no obstacle
        assert simulate(scenario, tmp_path / "timed", timing_only=timing_only)["reason"] == COMPLETE


def test_a_stopped_run_that_could_not_be_saved_is_not_begun_anew_unasked(
    tmp_path: Path, scenario: Scenario
) -> None:
    stopped(scenario, tmp_path / "run", 400)
    checkpoint.remove(tmp_path / "run")
    with pytest.raises(CannotGoOnError, match="results of a simulated run and no checkpoint to go on from"):
        simulate(scenario, tmp_path / "run")


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path, scenario: Scenario) -> None:
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(AnotherServerError, match=r"another process works in .*run"),
    ):
        simulate(scenario, tmp_path / "run")


def test_a_tensor_that_was_not_kept_is_never_trained_with() -> None:
    job = CloseRound(1, (("c0", HeadUpdate(1, 1, 1, 1, 0.0, Hollow(100)), 1.0),), evaluate=False)
    with ThreadPoolExecutor(1) as pool:
        close = Recorder().on(pool, workers.settled)
        with pytest.raises(AssertionError, match="CloseRound reads a tensor that was not kept"):
            close(job)


@pytest.mark.slow
def test_a_run_that_is_killed_for_real_goes_on(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "broker.cli", "simulate", str(small_file(tmp_path)),
        "--set=training.rounds=400", f"--out={tmp_path / 'run'}",
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        while not (tmp_path / "run" / checkpoint.FILE).exists():
            assert killed.poll() is None
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    subprocess.run(command, check=True, capture_output=True)
    simulate(small_scenario(tmp_path, "training.rounds=400"), tmp_path / "whole", pace=never())
    assert comes_out_the_same(tmp_path / "whole", tmp_path / "run")
