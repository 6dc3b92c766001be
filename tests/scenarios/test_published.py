"""The scenario that a server publishes: what devices get of it, and what they refuse."""

import zlib
from pathlib import Path

import pytest

from scenarios.errors import ScenarioError
from scenarios.loading.published import MAX_TEXT_BYTES, publish_scenario, read_published
from scenarios.schema.network import FleetGroup
from scenarios.schema.scenario import scenario_digest
from tests.helpers import small_scenario

TASK = str(Path(__file__).parents[1] / "small_task.py")


def packed(text: str) -> bytes:
    return zlib.compress(text.encode())


def complaint(data: bytes, **options: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        read_published(data, **options)
    return str(caught.value)


def test_a_device_reads_what_the_server_runs(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "fleet=[{names: [pi-07]}, {count: 3, link: lte}]")
    read = read_published(publish_scenario(scenario), module=TASK)
    assert read == scenario
    assert scenario_digest(read) == scenario_digest(scenario)


def test_brokers_and_places_on_the_servers_machine_are_not_published(tmp_path: Path) -> None:
    url = "mqtts://user:secret@broker.example"
    scenario = small_scenario(tmp_path, f"broker={{kind: url, url: '{url}', ca_file: {tmp_path}/ca.pem}}")
    text = zlib.decompress(publish_scenario(scenario)).decode()
    assert "module: small_task.py\n" in text
    for private in ("secret", "broker.example", str(tmp_path), str(Path(TASK).parent)):
        assert private not in text


def test_the_folder_of_the_data_is_each_machines_own(tmp_path: Path) -> None:
    shipped = ("task={name: fashion_mnist, module: null, path: /srv/clothes}", "flows={}")
    data = publish_scenario(small_scenario(tmp_path, *shipped))
    assert read_published(data).task.path is None
    assert read_published(data, [f"task.path={tmp_path}"]).task.path == tmp_path


def test_what_a_bundle_says_of_data_is_the_devices_own_or_the_tasks_and_settings_win(tmp_path: Path) -> None:
    place = str(tmp_path / "a: b")
    shipped = small_scenario(tmp_path, "task={name: fashion_mnist, module: null}", "flows={}")
    local = small_scenario(tmp_path, "task.partition=local", "task.data=/srv/data")
    for scenario, key, module in ((shipped, "path", ""), (local, "data", TASK)):
        data = publish_scenario(scenario)
        task = read_published(data, data=place, module=module).task
        assert {"path": task.path, "data": task.data} == {"path": None, "data": None, key: Path(place)}
        told = read_published(data, [f"task.{key}={tmp_path}"], data=place, module=module).task
        assert getattr(told, key) == tmp_path


def test_a_task_of_the_users_own_must_be_on_the_device(tmp_path: Path) -> None:
    data = publish_scenario(small_scenario(tmp_path))
    assert complaint(data) == (
        "task.module: this run's task is its owner's own, in the file small_task.py: copy that file to this "
        "device, and name it with --task-module PATH"
    )
    assert "no such file" in complaint(data, module=f"{tmp_path}/nothing.py")


def test_a_task_that_is_installed_on_the_device_needs_no_path(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "task.module=tests.small_task")
    assert read_published(publish_scenario(scenario)) == scenario


def test_a_built_in_task_takes_no_module(tmp_path: Path) -> None:
    data = publish_scenario(small_scenario(tmp_path, "task={name: digits28, module: null}", "flows={}"))
    assert "needs no module" in complaint(data, module=TASK)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"no zlib", "the run's scenario cannot be read: "),
        (zlib.compress(b"\xff\xfe"), "the run's scenario cannot be read: "),
        (packed("name: x\n" + "#" * 100)[:-8], "it is cut, too long"),
        (packed("#" * (MAX_TEXT_BYTES + 1)), "it is cut, too long"),
        (packed("[1, 2]"), "no mapping"),
        (packed("name: [x"), "not YAML"),
        (packed("extends: quickstart\n"), "extends: unknown key"),
    ],
)
def test_what_is_no_scenario_is_refused(data: bytes, expected: str) -> None:
    assert expected in complaint(data)


def test_no_file_is_read_because_a_server_names_it(tmp_path: Path) -> None:
    profile = tmp_path / "pi.yaml"
    profile.write_text("forward_s: 0.1\n")
    text = zlib.decompress(publish_scenario(small_scenario(tmp_path))).decode()
    assert "device: instant" in text
    told = complaint(packed(text.replace("device: instant", f"device: {profile}")), module=TASK)
    assert "unknown device" in told


def test_a_scenario_that_devices_would_not_read_is_not_published(tmp_path: Path) -> None:
    fleet = (FleetGroup(names=tuple(f"device-{number:025}" for number in range(33_000))),)
    scenario = small_scenario(tmp_path).model_copy(update={"fleet": fleet})
    with pytest.raises(ScenarioError, match="devices read 1,048,576 at most"):
        publish_scenario(scenario)
    with pytest.raises(ScenarioError, match="a packet holds 100"):
        publish_scenario(small_scenario(tmp_path), 100)
