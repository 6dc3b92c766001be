"""What a scenario may say of its fleet and network, and how mistakes in it are told."""

from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loading.load import dump_resolved, load_scenario
from scenarios.schema.devices import DEVICES, DeviceProfile, LognormalSlowdown, TraceSlowdown, device_of
from scenarios.schema.links import LINKS, Link, link_of
from scenarios.schema.network import Always, FleetGroup, Network, OnOff, PresenceTrace, ServerModel
from tests.helpers import SMALL, small_scenario


def with_fleet(tmp_path: Path, fleet: str) -> tuple[FleetGroup, ...]:
    return small_scenario(tmp_path, f"fleet={fleet}").fleet


def complaint(tmp_path: Path, *settings: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        small_scenario(tmp_path, *settings)
    return str(caught.value)


def test_a_count_is_enough(tmp_path: Path) -> None:
    (group,) = with_fleet(tmp_path, "[{count: 50}]")
    assert group == FleetGroup(count=50, device="instant", link="none", availability=Always())
    assert small_scenario(tmp_path).network == Network()


def test_links_and_devices_are_named_or_written_out(tmp_path: Path) -> None:
    named, own = with_fleet(
        tmp_path,
        "[{count: 4, link: lte, device: raspberry-pi-4},"
        " {count: 1, link: {uplink_kbps: 128, latency_ms: 120, loss: 0.01}, device: {forward_s: 0.2}}]",
    )
    assert link_of(named.link) is LINKS["lte"]
    assert device_of(named.device) is DEVICES["raspberry-pi-4"]
    assert link_of(own.link) == Link(uplink_kbps=128, latency_ms=120, loss=0.01)
    assert device_of(own.device).forward_s == 0.2


def test_slowdown_and_availability_are_chosen_by_name(tmp_path: Path) -> None:
    (group,) = with_fleet(
        tmp_path,
        "[{count: 4, slowdown: {distribution: lognormal, sigma: 0.8},"
        " availability: {pattern: on_off, mean_on_s: 60, mean_off_s: 5}}]",
    )
    assert group.slowdown == LognormalSlowdown(sigma=0.8)
    assert group.availability == OnOff(mean_on_s=60, mean_off_s=5)


def test_trace_files_are_relative_to_the_scenario(tmp_path: Path) -> None:
    fleet = (
        "[{count: 4, slowdown: {distribution: trace, file: slow.csv},"
        " availability: {pattern: trace, file: there.csv}}]"
    )
    path = tmp_path / "traced.yaml"
    path.write_text(SMALL.replace("[{count: 4}]", fleet))
    (group,) = load_scenario(path).fleet
    assert group.slowdown == TraceSlowdown(file=tmp_path / "slow.csv")
    assert group.availability == PresenceTrace(file=tmp_path / "there.csv")


def with_profile(tmp_path: Path, content: str) -> Path:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/pi.yaml").write_text(content)
    path = tmp_path / "calibrated.yaml"
    path.write_text(SMALL.replace("[{count: 4}]", "[{count: 4, device: profiles/pi.yaml}]"))
    return path


def test_a_profile_is_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    (group,) = load_scenario(with_profile(tmp_path, "batch_size: 10\nforward_s: 0.5\n")).fleet
    assert group.device == DeviceProfile(batch_size=10, forward_s=0.5)


def test_the_server_has_a_profile_too(tmp_path: Path) -> None:
    (tmp_path / "xeon.yaml").write_text("tail_batch_s: 0.25\nlink: ethernet\n")
    scenario = small_scenario(tmp_path, f"network.server={tmp_path / 'xeon.yaml'}")
    assert scenario.network.server == ServerModel(tail_batch_s=0.25, link="ethernet")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("batch_size: 10\nforwrd_s: 1\n", "pi.yaml:2: fleet.0.device.forwrd_s: unknown key; did you mean"),
        ("forward_s: -1\n", "pi.yaml:1: fleet.0.device.forward_s: must be a number of seconds >= 0"),
        ("- 3\n", "pi.yaml: is a list; must be a mapping"),
        (": : :\n", "pi.yaml:1: not YAML"),
    ],
)
def test_a_mistake_in_a_profile_names_the_profile(tmp_path: Path, content: str, expected: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario(with_profile(tmp_path, content))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_profile_that_is_not_there_names_the_line_that_asks_for_it(tmp_path: Path) -> None:
    path = with_profile(tmp_path, "")
    (tmp_path / "profiles/pi.yaml").unlink()
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    missing = tmp_path / "profiles/pi.yaml"
    assert str(caught.value) == f"{path}:12: fleet.0.device: no such file: {missing}"


def test_what_is_dumped_loads_again(tmp_path: Path) -> None:
    scenario = small_scenario(
        tmp_path,
        "network={access_points: {home: {uplink_kbps: 500}}, server: {link: ethernet, tail_batch_s: 0.1}}",
        "fleet=[{count: 4, link: {latency_ms: 5}, via: home, slowdown: {distribution: pareto, shape: 2}}]",
    )
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_resolved(scenario))
    assert load_scenario(path) == scenario


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        ("[{count: 4, link: lt}]", "fleet.0.link: unknown link 'lt'; did you mean 'lte'?"),
        ("[{count: 4, device: raspberry-pi-44}]", "did you mean 'raspberry-pi-4'?"),
        ("[{count: 4, link: {uplink_kpbs: 9}}]", "unknown key; did you mean 'uplink_kbps'?"),
        ("[{count: 4, link: 7}]", "fleet.0.link: must be "),
        ("[{count: 4, link: {loss: 0.9}}]", "fleet.0.link.loss: must be a number >= 0 and <= 0.5"),
        ("[{count: 4, link: {jitter_ms: 2, jitter: lognormal}}]", "lognormal jitter needs a latency_ms"),
        ("[{count: 4, slowdown: {distribution: gamma}}]", "unknown distribution 'gamma'"),
        ("[{count: 4, slowdown: {sigma: 1}}]", "fleet.0.slowdown.distribution: required but missing"),
        (
            "[{count: 4, availability: {mean_on_s: 5}}]",
            (
                "fleet.0.availability.mean_on_s: unknown key of pattern always, the default; "
                "allowed: pattern; for another pattern name it: on_off"
            ),
        ),
        ("[{count: 4, via: home}]", "fleet.0.via: unknown access point 'home'"),
    ],
)
def test_mistakes_name_the_key_and_what_is_allowed(tmp_path: Path, fleet: str, expected: str) -> None:
    assert expected in complaint(tmp_path, f"fleet={fleet}")


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ("3", "network.access_points: must be a mapping of names of your own, not 3"),
        (
            "{a: 3}",
            "network.access_points.a: must be a mapping with the keys uplink_kbps, downlink_kbps, trace",
        ),
        (
            "{a: {uplink_kbp: 3}}",
            "network.access_points.a.uplink_kbp: unknown key; did you mean 'uplink_kbps'?",
        ),
    ],
)
def test_mistakes_below_names_that_users_chose_are_told_like_any_other(
    tmp_path: Path, points: str, expected: str
) -> None:
    assert expected in complaint(tmp_path, f"network={{access_points: {points}}}")


@pytest.mark.parametrize("name", [*LINKS, *DEVICES])
def test_every_preset_says_where_its_numbers_come_from(name: str) -> None:
    assert (LINKS | DEVICES)[name].source
