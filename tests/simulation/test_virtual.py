"""Whole runs in virtual time: literal times, the same bytes as live, and devices that come and go."""

import gc
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from broker.stopping import Stop
from broker.transports.memory import MemoryBroker
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import Scenario
from server_node.vocabulary.ledger import FLOWS, Ledger
from server_node.vocabulary.reports import Dropped, Fact, Working
from sim.chrome_trace import SERVER
from sim.simulation import run, virtual_run
from sim.simulation.run import simulate
from sim.simulation.virtual_run import STANDSTILL_S
from tests.helpers import final_score, small_scenario
from tests.live.test_live import run as run_live

DEVICE = "{forward_s: 1, encode_s: 0.5, decode_s: 0.25, backward_s: 2, batch_size: 10}"
FAST = f"{{count: 2, link: lte, device: {DEVICE}, slowdown: {{distribution: lognormal, sigma: 0.5}}}}"
SHY = "{count: 2, link: 3g, via: home, availability: {pattern: on_off, mean_on_s: 20, mean_off_s: 5}}"
VARIED = (
    "training.local_steps=3",
    f"fleet=[{FAST}, {SHY}]",
    "network.access_points={home: {uplink_kbps: 500, downlink_kbps: 500}}",
    "network.server={tail_batch_s: 0.01, link: wifi}",
    "network.broker.per_message_us=30",
)


def end_times(folder: Path) -> list[float]:
    return [row["elapsed_s"] for row in pq.read_table(folder / "metrics.parquet").to_pylist()]


def spans(folder: Path) -> list[dict[str, Any]]:
    trace = json.loads((folder / "trace.json").read_text())
    return [event for event in trace["traceEvents"] if event["ph"] == "X"]


def one_device(tmp_path: Path, *settings: str) -> Scenario:
    return small_scenario(
        tmp_path, "training.cohort=1", "training.rounds=2", "stragglers.retry_s=60", *settings
    )


def test_a_round_takes_as_long_as_its_jobs(tmp_path: Path) -> None:
    # forward and encode 1.5, tail 0.1 + 10 x 0.01, update 0.05, decode and backward 2.25, close 0.2
    scenario = one_device(
        tmp_path,
        "fleet=[{count: 1, device: " + DEVICE + "}]",
        "network.server={tail_batch_s: 0.1, tail_sample_s: 0.01, update_s: 0.05, close_s: 0.2}",
    )
    simulate(scenario, tmp_path)
    assert end_times(tmp_path) == pytest.approx([4.15, 8.3])


def test_every_message_takes_its_way_through_link_and_broker(tmp_path: Path) -> None:
    # a round: Assignment, Activations, Gradient and HeadUpdate, each 100 ms and 10 ms in the broker
    scenario = one_device(
        tmp_path,
        "fleet=[{count: 1, link: {latency_ms: 100}}]",
        "network={broker: {per_message_us: 10000}, server: {link: {latency_ms: 5}}}",
    )
    summary = simulate(scenario, tmp_path)
    round_s = 4 * (0.1 + 0.01 + 0.005)
    first, second = end_times(tmp_path)
    assert second - first == pytest.approx(round_s)
    # before: five ways to connect, a sixth for the state (10 ms in the broker) to come down, Hello up
    assert summary["virtual_seconds"] == pytest.approx(2 * round_s + 7 * 0.1 + 2 * 0.01 + 0.005 + 0.01)


def test_messages_take_their_bytes_at_the_rate(tmp_path: Path) -> None:
    scenario = one_device(tmp_path, "fleet=[{count: 1, link: {uplink_kbps: 8, downlink_kbps: 16}}]")
    summary = simulate(scenario, tmp_path)
    wire = {flow: summary["bytes"][flow]["wire"] / 2 + 52 for flow in FLOWS}  # of a round; one packet each
    up_s = (wire["activations_up"] + wire["head_update_up"]) / 1000
    down_s = (wire["gradient_down"] + wire["head_state_down"]) / 2000
    first, second = end_times(tmp_path)
    assert second - first == pytest.approx(up_s + down_s)


def test_learning_and_timing_only_differ_in_what_is_learned_alone(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *VARIED)
    learned = simulate(scenario, tmp_path / "learned")
    timed = simulate(scenario, tmp_path / "timed", timing_only=True)
    for key in ("reason", "rounds", "client_steps", "virtual_seconds", "bytes", "messages", "network"):
        assert learned[key] == timed[key]
    assert learned["network"]["lost"] > 0
    assert (tmp_path / "learned/trace.json").read_bytes() == (tmp_path / "timed/trace.json").read_bytes()
    assert final_score(learned) > 0.9
    assert timed["metric"]["final"] is None
    assert not (tmp_path / "timed/model.safetensors").exists()


async def test_messages_have_the_bytes_that_they_have_live(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.local_steps=2", "training.rounds=5")
    live = await run_live(scenario, MemoryBroker().transport, tmp_path / "live")
    simulated = simulate(scenario, tmp_path / "simulated")
    assert {flow: live["bytes"][flow] for flow in FLOWS} == {flow: simulated["bytes"][flow] for flow in FLOWS}
    assert live["messages"]["sent"] == simulated["messages"]["sent"]


def test_the_same_scenario_gives_the_same_run(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, *VARIED)
    for folder in ("one", "two"):
        simulate(scenario, tmp_path / folder)
    for name in ("metrics.parquet", "trace.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.slow
def test_the_same_scenario_gives_the_same_run_in_another_process(tmp_path: Path) -> None:
    small_scenario(tmp_path)
    program = (
        "import sys; from pathlib import Path; from tests.helpers import small_scenario;"
        "from sim.simulation.run import simulate; from tests.simulation.test_virtual import VARIED;"
        "folder = Path(sys.argv[1]); simulate(small_scenario(folder.parent, *VARIED), folder)"
    )
    root = Path(__file__).parents[2]
    for name in ("one", "two"):
        subprocess.run([sys.executable, "-c", program, tmp_path / name], check=True, cwd=root)
    for name in ("metrics.parquet", "trace.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_another_seed_draws_other_times(tmp_path: Path) -> None:
    for seed in (1, 2):
        simulate(small_scenario(tmp_path, f"seed={seed}", *VARIED), tmp_path / str(seed), timing_only=True)
    assert end_times(tmp_path / "1") != end_times(tmp_path / "2")


def test_a_client_meets_the_same_weather_whoever_else_is_there_and_whatever_the_policy(
    tmp_path: Path,
) -> None:
    # without rates a single packet is on its way for nothing but the jittered latency
    shaky = "{count: 1, link: {latency_ms: 100, jitter_ms: 30}}"
    lossy = "{count: 4, device: {forward_s: 7}, link: {latency_ms: 50, jitter_ms: 20, loss: 0.1}}"
    wait_all, buffered = "stragglers.policy=wait_all", "stragglers={policy: buffered, buffer: 2}"
    ways: dict[str, list[list[float]]] = {"uplink": [], "downlink": []}
    for name, settings in {
        "alone": [f"fleet=[{shaky}]", "training.cohort=1", wait_all],
        "of five": [f"fleet=[{shaky}, {lossy}]", "training.cohort=5", wait_all],
        "buffered": [f"fleet=[{shaky}, {lossy}]", "training.cohort=5", buffered],
    }.items():
        simulate(small_scenario(tmp_path, *settings), tmp_path / name, timing_only=True)
        c0 = sorted(
            (s for s in spans(tmp_path / name) if s["pid"] == SERVER + 1), key=lambda span: span["ts"]
        )
        for way, seconds in ways.items():
            seconds.append([span["dur"] for span in c0 if span["name"] == way])
    for alone, of_five, buffered_ in ways.values():
        messages = min(map(len, (alone, of_five, buffered_)))
        assert messages > 10
        assert len(set(alone[:messages])) == messages
        exact = pytest.approx(alone[:messages], abs=0.0025, rel=0)  # two ends in whole nanoseconds
        assert of_five[:messages] == exact
        assert buffered_[:messages] == exact


def presence(tmp_path: Path, *rows: str) -> str:
    """Write when the four clients are there; give the setting of the fleet."""
    (tmp_path / "presence.csv").write_text("\n".join(["client,from_s,to_s", *rows]) + "\n")
    file = tmp_path / "presence.csv"
    return f"fleet=[{{count: 4, device: {DEVICE}, availability: {{pattern: trace, file: '{file}'}}}}]"


def test_a_device_that_vanishes_does_not_stop_the_round(tmp_path: Path) -> None:
    # c1 goes while it computes at 1; noticed after 1.5 keepalives of 2 s at 4; not back by 4.5
    fleet = presence(tmp_path, "c0,0,", "c1,0,1", "c2,0,", "c3,0,")
    scenario = small_scenario(tmp_path, fleet, "training.cohort=4", "network.broker.keepalive_s=2")
    dropped: list[Dropped] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, Dropped):
            dropped.append(fact)

    summary = simulate(scenario, tmp_path / "run", watch=watch)
    assert dropped == [Dropped(1, "c1")]
    assert (summary["reason"], summary["rounds"]) == ("complete", 20)
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    assert [row["clients"] for row in rows] == [3] * 20
    assert rows[0]["elapsed_s"] == pytest.approx(4.5)  # the others had answered all by 3.75


def test_a_device_that_comes_back_in_time_goes_on(tmp_path: Path) -> None:
    # c1 goes at 1 in the middle of its first batch and is back at 3 with the batch done
    fleet = presence(tmp_path, "c0,0,", "c1,0,1", "c1,3,", "c2,0,", "c3,0,")
    scenario = small_scenario(tmp_path, fleet, "training.cohort=4")
    summary = simulate(scenario, tmp_path / "run")
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    assert [row["clients"] for row in rows] == [4] * 20
    assert rows[0]["elapsed_s"] == pytest.approx(3 + 2.25)
    assert summary["network"]["lost"] == 1  # a question at 2, since it is silent; its batch is not sent again


def test_a_message_under_way_is_lost_with_its_device_and_sent_again(tmp_path: Path) -> None:
    # c1's first batch leaves at 1.5 + 0.2 (its own link) and is in the air at 1.75
    fleet = presence(tmp_path, "c0,0,", "c1,0,2.35", "c1,3,", "c2,0,", "c3,0,")
    link = "fleet.0.link={latency_ms: 100}"
    scenario = small_scenario(tmp_path, fleet, link, "training.cohort=4", "training.rounds=1")
    summary = simulate(scenario, tmp_path / "run")
    assert summary["network"]["lost"] == 2  # the batch, and a question at 2.7 that finds nobody
    assert summary["rounds"] == 1
    # connected again at 3.6; greeting, question, answer, "send it again"; activations, gradient, 2.25, update
    training_began_s = 0.7
    assert end_times(tmp_path / "run") == pytest.approx([3.6 - training_began_s + 7 * 0.1 + 2.25])


def test_a_run_that_everybody_leaves_ends(tmp_path: Path) -> None:
    fleet = presence(tmp_path, *(f"c{n},0,10" for n in range(4)))
    summary = simulate(small_scenario(tmp_path, fleet), tmp_path / "run", timing_only=True)
    assert summary["reason"].startswith("no round has ended in")
    assert 0 < summary["rounds"] < 20
    assert summary["virtual_seconds"] == 2 * STANDSTILL_S


def test_a_deadline_leaves_the_slow_behind(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path,
        "training.cohort=4",
        "fleet=[{count: 3, device: {forward_s: 2}}, {count: 1, device: {forward_s: 18}}]",
        "stragglers={policy: deadline, deadline_s: 2, minimum: 3}",
    )
    simulate(scenario, tmp_path)
    assert end_times(tmp_path)[:2] == pytest.approx([2, 4])


def test_devices_behind_one_access_point_share_it(tmp_path: Path) -> None:
    alone = "fleet=[{count: 4, link: {uplink_kbps: 16, downlink_kbps: 16}}]"
    shared = "fleet=[{count: 4, link: {uplink_kbps: 16, downlink_kbps: 16}, via: home}]"
    access = "network.access_points={home: {uplink_kbps: 32, downlink_kbps: 32}}"
    times = {}
    for name, settings in {"alone": [alone], "shared": [access, shared]}.items():
        scenario = small_scenario(tmp_path, "training.cohort=4", "training.rounds=2", *settings)
        simulate(scenario, tmp_path / name, timing_only=True)
        first, second = end_times(tmp_path / name)
        times[name] = second - first
    assert times["shared"] == pytest.approx(2 * times["alone"], rel=0.01)


def test_the_trace_has_a_lane_for_the_server_and_one_for_each_client(tmp_path: Path) -> None:
    scenario = one_device(
        tmp_path,
        "fleet=[{count: 1, device: " + DEVICE + ", link: {latency_ms: 100}}]",
        "network.server={tail_batch_s: 0.1}",
    )
    simulate(scenario, tmp_path)
    names = Counter((span["pid"] - SERVER, span["name"]) for span in spans(tmp_path))
    phases = {"compute": 2, "encode": 2, "decode": 2, "backward": 2, "tail": 2, "uplink": 4, "downlink": 4}
    assert names == {(0, "TailStep"): 2} | {(1, name): count for name, count in phases.items()}
    by_time = sorted(spans(tmp_path), key=lambda span: span["ts"])
    lane = [span for span in by_time if span["pid"] == SERVER + 1][:7]
    assert [span["name"] for span in lane] == [
        "downlink", "compute", "encode", "uplink", "tail", "downlink", "decode",
    ]  # fmt: skip
    assert [span["dur"] for span in lane] == [1e5, 1e6, 5e5, 1e5, 1e5, 1e5, 2.5e5]


def test_a_fleet_larger_than_the_data_can_still_be_timed(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "fleet=[{count: 1000}]", "training={rounds: 2, cohort: 500}")
    summary = simulate(scenario, tmp_path / "run", timing_only=True)
    assert summary["client_steps"] == 2 * 500


@pytest.mark.parametrize(
    ("what", "link"),
    [
        ("links made:", "{latency_ms: 20}"),
        ("devices made:", "{latency_ms: 20}"),
        ("events:", "{latency_ms: 20}"),
        ("devices connected:", "lte"),
    ],
)
def test_a_large_fleet_tells_how_far_its_set_up_is_and_can_be_stopped_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, link: str
) -> None:
    monkeypatch.setattr(run, "LARGE_FLEET", 3_000)
    monkeypatch.setattr(virtual_run, "EVENTS_A_LOOK", 4)
    stop, told = Stop(), list[Working]()

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, Working):
            told.append(fact)
            if fact.what.endswith(what):
                stop.ask()

    settings = (f"fleet=[{{count: 3500, link: {link}}}]", "training={rounds: 2, cohort: 20}")
    summary = simulate(
        load_scenario("quickstart", settings), tmp_path, timing_only=True, watch=watch, stop=stop
    )
    assert (summary["reason"], summary["rounds"]) == ("stopped", 0)
    *_, last, end = told
    assert last.what.endswith(what)
    assert (last.done, last.of) == ((4, 0) if what == "events:" else (1_000, 3_500))
    assert end == Working("writing the run folder")


def test_what_the_brokers_queue_cannot_hold_is_dropped_without_a_word(tmp_path: Path) -> None:
    # Four devices say Status and Hello at once: one message is under way to the server, one waits, six are
    # dropped. The two whose Status came are called, and greet. After a minute all four are called and greet:
    # two are dropped, and so are the first activations, which the server then asks for.
    scenario = small_scenario(
        tmp_path,
        "training.cohort=1",
        "network={broker: {in_flight: 1, queue_limit: 1}, server: {link: {latency_ms: 50}}}",
    )
    summary = simulate(scenario, tmp_path / "run", timing_only=True)
    assert summary["network"]["dropped"] == 9
    assert summary["rounds"] == 20


@pytest.mark.parametrize("timing_only", [True, False])
@pytest.mark.parametrize("on", [True, False])
def test_only_timing_only_runs_without_the_garbage_collector_and_puts_it_back(
    tmp_path: Path, timing_only: bool, on: bool
) -> None:
    seen = set[bool]()
    before = gc.isenabled()
    try:
        (gc.enable if on else gc.disable)()
        simulate(
            small_scenario(tmp_path, "training.rounds=2"),
            tmp_path / "run",
            timing_only=timing_only,
            watch=lambda _fact, _ledger: seen.add(gc.isenabled()),
        )
        assert gc.isenabled() == on
    finally:
        (gc.enable if before else gc.disable)()
    assert seen == {on and not timing_only}
