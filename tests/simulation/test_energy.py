"""What devices draw, and what an empty battery does."""

import functools
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from scenarios.errors import ScenarioError
from scenarios.loading.load import load_scenario
from scenarios.schema.energy import Battery, Power
from sim.network.clock import Clock
from sim.network.endpoint import Endpoint
from sim.network.links.link import Carried, TcpLink
from sim.simulation.devices import make_endpoints
from sim.simulation.fleet.energy import Energy
from sim.simulation.fleet.meter import Meter
from sim.simulation.fleet.supply import Supply
from sim.simulation.run import simulate
from tests.helpers import small_scenario

DEVICE = (
    "{forward_s: 1, encode_s: 0.5, decode_s: 0.25, backward_s: 2, batch_size: 10, "
    "power: {idle_w: 2, compute_w: 3, send_w: 5, receive_w: 7, per_byte_nj: 1000}}"
)


def energy_of(folder: Path) -> dict[str, Any]:
    energy: dict[str, Any] = json.loads((folder / "summary.json").read_text())["energy"]
    return energy


def test_a_device_draws_for_being_on_for_computing_and_for_its_busy_links(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path, "training.rounds=2", "training.cohort=1",
        f"fleet=[{{count: 1, device: {DEVICE}, link: {{uplink_kbps: 80, downlink_kbps: 40}}}}]",
    )  # fmt: skip
    simulate(scenario, tmp_path, timing_only=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    use, network = summary["energy"]["joules_by_use"], summary["network"]
    assert use["idle"] == pytest.approx(2 * summary["virtual_seconds"])
    assert use["computing"] == pytest.approx(3 * 2 * 3.75)  # two rounds of one step
    up_s, down_s = network["uplink_bytes"] / 10_000, network["downlink_bytes"] / 5_000
    # what is no message takes bytes and no time: a link is busy for less than its bytes would say
    assert 0.4 * 5 * up_s < use["sending"] - 1e-6 * network["uplink_bytes"] < 5 * up_s
    assert 0.4 * 7 * down_s < use["receiving"] - 1e-6 * network["downlink_bytes"] < 7 * down_s
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    assert [row["joules"] for row in rows] == sorted(row["joules"] for row in rows)
    assert rows[-1]["joules"] <= summary["energy"]["joules"] == pytest.approx(sum(use.values()))


def test_where_no_power_is_known_nothing_is_said(tmp_path: Path) -> None:
    simulate(small_scenario(tmp_path), tmp_path, timing_only=True)
    assert "energy" not in json.loads((tmp_path / "summary.json").read_text())
    assert "joules" not in pq.read_table(tmp_path / "metrics.parquet").column_names


@dataclass
class Links:
    """Stands for a device: how long its parts were busy."""

    busy_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    up: "Links" = field(init=False)
    down: "Links" = field(init=False)

    def __post_init__(self) -> None:
        self.up = self.down = self


class Device:
    """A device with a battery; keeps what happens to it."""

    def __init__(self, idle_w: float, **battery: float) -> None:
        self.clock, self.links = Clock(), Links()
        self.log: list[tuple[str, float]] = []
        power = Power(idle_w=idle_w, compute_w=1)
        self.meter = meter = Meter(power, self.links, self.links)
        note = functools.partial
        self.supply = Supply(
            self.clock,
            Battery.model_validate(battery),
            meter,
            note(self._note, "on"),
            note(self._note, "off"),
        )
        self.supply.appear()

    def _note(self, what: str) -> None:
        self.log.append((what, self.clock.now))

    def work(self, at_s: float, joules: float) -> None:
        """Draw something at a time."""
        self.clock.at(at_s, self._draw, joules)

    def _draw(self, joules: float) -> None:
        self.links.busy_s += joules
        self.supply.look()


def test_an_idle_device_is_away_when_its_battery_is_empty() -> None:
    device = Device(2.0, capacity_wh=0.01, initial=0.5)  # 18 J
    device.clock.run(until=100)
    assert device.log == [("on", 0.0), ("off", pytest.approx(9.0))]


def test_work_empties_it_earlier_and_charging_brings_the_device_back() -> None:
    device = Device(
        2.0, capacity_wh=0.01, initial=0.5, charge_w=1.0, returns_at=0.25
    )  # 18 of 36 J, back at 9
    device.work(4.0, 10.0)  # 18 - 4 - 10 = 4 J left, and 1 W is lost
    device.clock.run(until=8.5 + 9.0)
    assert device.log == [("on", 0.0), ("off", pytest.approx(8.0)), ("on", pytest.approx(17.0))]
    assert device.supply.times_empty == 1


def test_a_device_that_is_elsewhere_connects_only_when_it_is_both_there_and_on() -> None:
    device = Device(1.0, capacity_wh=0.01, initial=0.1, charge_w=0.5, returns_at=0.5)  # 3.6 J at -0.5 W
    device.clock.at(5.0, device.supply.vanish)
    device.clock.at(20.0, device.supply.appear)  # it is off from 7.2 s until 18 J are there, at 43.2 s
    device.clock.run(until=50)
    assert device.log == [("on", 0.0), ("off", 5.0), ("on", pytest.approx(43.2))]


@given(
    st.floats(0, 5),
    st.floats(0, 5),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 30)), max_size=20),
)
def test_whatever_is_drawn_the_battery_has_at_most_its_capacity_and_an_empty_device_draws_nothing(
    idle_w: float, charge_w: float, work: list[tuple[float, float]]
) -> None:
    device = Device(idle_w, capacity_wh=0.01, charge_w=charge_w, returns_at=0.5)
    now_s = 0.0
    for wait_s, joules in work:
        now_s += wait_s
        device.work(now_s, joules)
    for _ in range(30):
        now_s += 3.0
        device.clock.at(now_s, lambda: None)
    drawn, on_s, at_s, was_on = (0.0, 0.0, 0.0, 0.0), 0.0, 0.0, True
    while device.clock.peek() < 1e9 and device.clock.now < now_s:
        device.clock.step()
        on_s += (device.clock.now - at_s) * was_on
        at_s, was_on, before = device.clock.now, device.log[-1][0] == "on", drawn
        drawn = (device.meter.idle_j(at_s), *device.meter.working_j())
        assert drawn[0] == pytest.approx(idle_w * on_s, abs=1e-6)
        assert all(now_j >= before_j - 1e-9 for now_j, before_j in zip(drawn, before, strict=True))
        assert device.supply.level_j <= 36.0
        is_on = device.log[-1][0] == "on"
        assert not is_on or device.supply.level_j > -1e-6
    assert [what for what, _ in device.log] == [("on", "off")[n % 2] for n in range(len(device.log))]
    assert device.supply.times_empty == sum(what == "off" for what, _ in device.log)


BATTERY = "battery: {capacity_wh: 0.01, charge_w: 1.5, returns_at: 0.3}"


@pytest.mark.parametrize("policy", ["{policy: wait_all}", "{policy: buffered, buffer: 2}"])
def test_a_run_goes_on_without_devices_whose_batteries_are_empty(tmp_path: Path, policy: str) -> None:
    fleet = f"fleet=[{{count: 3, device: {DEVICE}, {BATTERY}}}, {{count: 3, device: {DEVICE}}}]"
    settings = (fleet, "training.rounds=12", "training.cohort=3", f"stragglers={policy}")
    simulate(small_scenario(tmp_path, *settings), tmp_path, timing_only=True)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["rounds"], summary["reason"]) == (12, "complete")
    assert summary["energy"]["times_empty"] > 0
    assert summary["energy"]["clients"] == 6


def test_a_battery_needs_a_device_whose_power_is_known(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(
        "name: s\nextends: quickstart\nfleet: [{count: 20, device: x86-core, battery: {capacity_wh: 1}}]\n"
    )
    with pytest.raises(
        ScenarioError, match=r"fleet\.0\.battery: needs a device whose power is known: raspberry"
    ):
        load_scenario(str(file))


RATES = "uplink_kbps: 80, downlink_kbps: 40, latency_ms: 2000"
LINKS = (
    "link: wifi",
    f"link: {{{RATES}}}",
    f"link: {{{RATES}, jitter_ms: 500}}",
    f"link: {{{RATES}, loss: 0.05}}",
    f"link: {{{RATES}, duty_cycle: 0.2}}",
    f"link: {{{RATES}, states: [{{mean_s: 20}}, {{mean_s: 5, uplink_kbps: 0, downlink_kbps: 0}}]}}",
    f"link: {{{RATES}}}, via: ap",
    f"link: {{{RATES}, loss: 0.05}}, via: ap",
)
PRESENCE = ("", "availability: {pattern: on_off, mean_on_s: 20, mean_off_s: 5}", BATTERY)
POLICIES = ("wait_all", "deadline, deadline_s: 8, minimum: 1", "buffered, buffer: 1", "over_select, extra: 1")
GROUPS = st.tuples(st.sampled_from(LINKS), st.sampled_from(PRESENCE))


@given(st.lists(st.floats(0, 1e5), min_size=2), st.floats(0.01, 100))
@settings(max_examples=300)
def test_what_a_meter_shows_never_falls_however_often_it_is_switched(
    gaps_s: list[float], watts: float
) -> None:
    links = Links()
    meter, now_s, readings = Meter(Power(idle_w=watts, compute_w=1), links, links), 0.0, [0.0]
    for number, gap_s in enumerate(gaps_s):
        now_s += gap_s
        readings.append(meter.idle_j(now_s))
        (meter.switch_on if number % 2 else meter.switch_off)(now_s)
        readings.append(meter.idle_j(now_s))
    assert readings == sorted(readings)
    assert readings[-1] == pytest.approx(watts * sum(gaps_s[::2]))


@pytest.mark.parametrize("policy", POLICIES)
@given(st.lists(GROUPS, min_size=2, max_size=3), st.integers(0, 99))
@settings(max_examples=5, phases=[Phase.explicit, Phase.generate])
def test_at_every_moment_the_radios_have_drawn_for_their_time_on_the_air_and_their_bytes(
    policy: str, groups: list[tuple[str, str]], seed: int
) -> None:
    fleet = ", ".join(f"{{count: 2, device: {DEVICE}, {', '.join(filter(None, kind))}}}" for kind in groups)
    on_air_s: defaultdict[object, float] = defaultdict(float)
    endpoints: dict[str, Endpoint] = {}
    energies: list[Energy] = []
    readings: list[float] = []
    arrive, step = TcpLink._arrive, Clock.step

    def arriving(link: TcpLink, *times: float) -> Carried:
        carried = arrive(link, *times)
        on_air_s[link] += carried.sent_s - carried.start_s
        return carried

    def making(*args: Any) -> dict[str, Endpoint]:
        endpoints.update(make_endpoints(*args))
        return endpoints

    def metering(*args: Any) -> Energy:
        energies.append(Energy(*args))
        return energies[0]

    def stepping(clock: Clock) -> None:
        step(clock)
        joules = 0.0
        for client, meter in energies[0].meters.items():
            endpoint = endpoints[client]
            up, down = (getattr(link, "_link", link) for link in (endpoint.up, endpoint.down))
            joules += meter.idle_j(clock.now) + meter.working_j()[0]
            joules += 5 * on_air_s[up] + 7 * on_air_s[down]
            joules += 1e-6 * (endpoint.sent_bytes + endpoint.received_bytes)
        assert energies[0].so_far()["joules"] == pytest.approx(joules)
        readings.append(joules)

    scenario_settings = (
        f"seed={seed}", f"fleet=[{fleet}]", f"stragglers={{policy: {policy}}}",
        "network={access_points: {ap: {uplink_kbps: 100, downlink_kbps: 60}}}",
        "training.rounds=5", "training.cohort=3",
    )  # fmt: skip
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(TcpLink, "_arrive", arriving)
        patch.setattr("sim.simulation.virtual_run.make_endpoints", making)
        patch.setattr("sim.simulation.ahead.device._is_plain", lambda _path: False)  # all have endpoints
        patch.setattr("sim.simulation.virtual_run.Energy", metering)
        patch.setattr(Clock, "step", stepping)
        simulate(small_scenario(Path(folder), *scenario_settings), Path(folder) / "run", timing_only=True)
    assert readings == sorted(readings)
    assert len(readings) > 50  # events, and each of them was looked at
