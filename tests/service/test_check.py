"""`fedlite edge check` against a real Mosquitto with TLS: each thing that can be wrong is found and told."""

import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RefusedError
from broker.exits import Exit
from broker.provisioning.bundle import read_bundle
from broker.transports.access import Access
from broker.transports.probe import hear_alert
from broker.urls import parse_url
from broker.wire import packing, topics
from broker.wire.messages import RunScenario, RunState
from edge_client.service.check import check_clock, check_device, check_memory
from edge_client.service.findings import Device, Finding, worst
from scenarios.fingerprint import model_fingerprint
from scenarios.loading.published import publish_scenario
from scenarios.tasks import task_of
from tests.helpers import small_scenario
from tests.service.conftest import Brokers, make_bundle

TASK = Path(__file__).parents[1] / "small_task.py"
ORDER = ["memory", "clock", "DNS", "TLS", "login", "access list", "packets", "task"]


def findings(device: Device) -> dict[str, Finding]:
    return {finding.what: finding for finding in check_device(device)}


def device_of(bundle: Path, **changes: str) -> Device:
    told = read_bundle(bundle, "device")
    return replace(Device(told.access, told.name, told.run, told.task_module), **changes)  # type: ignore[arg-type]


@contextmanager
def published(brokers: Brokers, run: str, scenario: RunScenario) -> Iterator[None]:
    """Let a server have published a run."""
    client = paho.Client(CallbackAPIVersion.VERSION2, f"server-{run}")
    client.username_pw_set("server", "secret-server")
    client.tls_set(str(brokers.folder / "ca.crt"))
    client.connect("localhost", brokers.ports["good"])
    client.loop_start()
    kept = {
        topics.scenario(run): packing.encode(scenario),
        topics.state(run): packing.encode(RunState("running", 1)),
    }
    for topic, payload in kept.items():
        client.publish(topic, payload, qos=1, retain=True).wait_for_publish(10)
    yield
    for topic in kept:
        client.publish(topic, b"", qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


@pytest.fixture(scope="module")
def run(brokers: Brokers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run in which c0 takes part and pi-07 does not."""
    scenario = small_scenario(tmp_path_factory.mktemp("scenario"))
    told = RunScenario(publish_scenario(scenario), model_fingerprint(scenario, task_of(scenario)))
    with published(brokers, "small", told):
        yield "small"


# all is well


def test_a_device_that_lacks_nothing_passes_each_check(brokers: Brokers, run: str, tmp_path: Path) -> None:
    bundle = make_bundle(brokers, tmp_path / "c0", "c0", run=run, task_module=str(TASK))
    result = CliRunner().invoke(app, ["edge", "check", "--bundle", str(bundle)])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line[8:20].strip() for line in lines] == ORDER
    assert {line[:8].strip() for line in lines} == {"ok"}
    assert "c0 speaks for c0 in run small, and for nobody else" in result.output
    assert "to be refused as it must" in result.output


def test_an_archive_will_do_before_the_device_is_installed(
    brokers: Brokers, run: str, tmp_path: Path
) -> None:
    bundle = make_bundle(brokers, tmp_path / "c0", "c0", run=run)
    with tarfile.open(tmp_path / "c0.tar.gz", "w:gz") as output:
        output.add(bundle, "c0")
    result = CliRunner().invoke(app, ["edge", "check", "--bundle", str(tmp_path / "c0.tar.gz")])
    assert "ok      login       as c0, MQTT 5" in result.output
    assert "name it with --task-module PATH" in result.output
    assert result.exit_code == 2


def test_without_a_run_what_needs_one_is_skipped(brokers: Brokers, tmp_path: Path) -> None:
    found = findings(device_of(make_bundle(brokers, tmp_path / "b", run="nobody-knows")))
    assert found["access list"].verdict == "ok"
    assert found["task"].verdict == "skipped"
    assert "no server has published run nobody-knows yet" in found["task"].text
    assert worst(found.values()) == Exit.COMPLETE


# each failure


@pytest.mark.parametrize(
    ("listener", "words", "code"),
    [
        ("expired", "has expired", Exit.AUTHENTICATION),
        ("early", "not valid yet: is this clock right", Exit.AUTHENTICATION),
        ("misnamed", "of another name", Exit.AUTHENTICATION),
        ("plain", "no TLS", Exit.AUTHENTICATION),
    ],
)
def test_a_certificate_that_does_not_fit(
    brokers: Brokers, tmp_path: Path, listener: str, words: str, code: Exit
) -> None:
    url = f"mqtts://localhost:{brokers.ports[listener]}"
    found = findings(device_of(make_bundle(brokers, tmp_path / "b", broker=url)))
    assert found["TLS"].verdict == "failed"
    assert words in found["TLS"].text
    assert found["login"].verdict == "skipped"
    assert worst(found.values()) == code


def test_an_authority_of_another_fleet(brokers: Brokers, tmp_path: Path) -> None:
    found = findings(device_of(make_bundle(brokers, tmp_path / "b", ca_file="other.crt")))
    assert "not trusted" in found["TLS"].text
    assert "right ca_file" in found["TLS"].text


def test_a_name_that_is_not_known_and_a_port_where_nobody_listens(brokers: Brokers, tmp_path: Path) -> None:
    unknown = findings(device_of(make_bundle(brokers, tmp_path / "a", broker="mqtts://no.such.invalid")))
    assert (unknown["DNS"].verdict, worst(unknown.values())) == ("failed", Exit.UNREACHABLE)
    silent = findings(device_of(make_bundle(brokers, tmp_path / "b", broker="mqtts://localhost:1")))
    assert (silent["connection"].verdict, worst(silent.values())) == ("failed", Exit.UNREACHABLE)


def test_of_several_brokers_the_first_that_answers_is_used(brokers: Brokers, tmp_path: Path) -> None:
    urls = ["mqtts://localhost:1", brokers.url("good")]
    found = findings(device_of(make_bundle(brokers, tmp_path / "b", broker=urls)))
    assert found["connection"].verdict == "failed"
    assert found["login"].verdict == "ok"


def test_a_wrong_password(brokers: Brokers, tmp_path: Path) -> None:
    bundle = make_bundle(brokers, tmp_path / "b")
    (bundle / "password").write_text("a guess")
    found = findings(device_of(bundle))
    assert found["login"].verdict == "failed"
    assert "refuses pi-07" in found["login"].text
    assert "a guess" not in "".join(map(str, found.values()))
    assert worst(found.values()) == Exit.AUTHENTICATION


@pytest.mark.parametrize(("whose", "verdict"), [("pi-07", "ok"), ("stranger", "failed")])
def test_a_certificate_of_the_devices_own(brokers: Brokers, tmp_path: Path, whose: str, verdict: str) -> None:
    for end in ("crt", "key"):
        shutil.copy(brokers.folder / f"client-{whose}.{end}", tmp_path / f"client.{end}")
    bundle = make_bundle(
        brokers,
        tmp_path / "b",
        broker=brokers.url("mutual"),
        run="first",
        certificate="../client.crt",
        key="../client.key",
        user=None,
        password_file=None,
    )
    found = findings(device_of(bundle))
    assert (found["TLS"].verdict, found["login"].verdict) == ("ok", verdict)
    if verdict == "failed":
        assert "refuses our certificate: unknown ca" in found["login"].text
        assert worst(found.values()) == Exit.AUTHENTICATION
    else:
        assert "pi-07 by certificate speaks for pi-07 in run first" in found["access list"].text


def test_who_says_nothing_hears_why_a_certificate_is_refused(brokers: Brokers, tmp_path: Path) -> None:
    """Who writes may get a reset instead, now and then."""
    address = parse_url(brokers.url("mutual"))
    for number in range(10):  # a file of its own each time, since contexts are kept by the names of files
        for end in ("crt", "key"):
            shutil.copy(brokers.folder / f"client-stranger.{end}", tmp_path / f"{number}.{end}")
        own = tmp_path / f"{number}.crt"
        context = Access((address,), brokers.folder / "ca.crt", own, own.with_suffix(".key")).context()
        assert context is not None
        hear_alert(address, context)
        with pytest.raises(RefusedError, match="refuses our certificate: unknown ca"):
            context.check(address)


def test_a_user_whose_name_is_not_the_devices(brokers: Brokers, tmp_path: Path) -> None:
    bundle = make_bundle(brokers, tmp_path / "b", "c0", client="pi-07", run="first")
    found = findings(device_of(bundle))
    assert found["access list"].verdict == "failed"
    assert "c0 may not speak for pi-07" in found["access list"].text
    assert worst(found.values()) == Exit.AUTHENTICATION


def test_a_broker_without_an_access_list(brokers: Brokers, tmp_path: Path) -> None:
    bundle = make_bundle(brokers, tmp_path / "b", broker=brokers.url("loose"), run="first")
    found = findings(device_of(bundle))
    assert found["access list"].verdict == "failed"
    assert "may speak for other devices" in found["access list"].text
    assert worst(found.values()) == Exit.CONFIGURATION


def test_a_broker_that_takes_small_packets_only(brokers: Brokers) -> None:
    access = Access((parse_url(f"mqtt://localhost:{brokers.small}"),))
    found = findings(Device(access, "pi-07", "first"))
    assert found["packets"].verdict == "failed"
    assert "broker.packet_bytes=65376" in found["packets"].text
    assert "everybody in between can read along" in found["TLS"].text


def test_a_broker_that_speaks_the_older_mqtt_only(embedded_url: str) -> None:
    found = findings(Device(Access((parse_url(embedded_url),)), "pi-07", "first"))
    assert (found["login"].verdict, found["login"].text) == ("ok", "as nobody, MQTT 3.1.1")
    assert found["access list"].verdict == "skipped"


def test_other_code_of_the_task(brokers: Brokers, run: str, tmp_path: Path) -> None:
    other = tmp_path / "other_task.py"
    other.write_text(TASK.read_text() + "\n# changed\n")
    bundle = make_bundle(brokers, tmp_path / "c0", "c0", run=run)
    found = findings(device_of(bundle, module=str(other)))
    assert found["task"].verdict == "failed"
    assert "copy the server's task file" in found["task"].text
    missing = findings(device_of(bundle, module=""))
    assert "copy that file to this device" in missing["task"].text


def test_a_device_that_is_not_in_the_runs_fleet(brokers: Brokers, run: str, tmp_path: Path) -> None:
    bundle = make_bundle(brokers, tmp_path / "b", run=run)
    found = findings(device_of(bundle, module=str(TASK)))
    assert found["task"].text == "run small has no client pi-07"
    assert worst(found.values()) == Exit.CONFIGURATION


# clock and memory


def test_a_clock_before_the_certificates_or_files_is_wrong(brokers: Brokers, tmp_path: Path) -> None:
    device = device_of(make_bundle(brokers, tmp_path / "b"))
    assert check_clock(device, datetime.now(UTC)).verdict == "ok"
    early = check_clock(device, datetime(1970, 1, 1, tzinfo=UTC))
    assert early.verdict == "failed"
    assert "timedatectl set-ntp true" in early.text
    ahead = tmp_path / "b/edge.yaml"
    later = datetime.now(UTC) + timedelta(days=3)
    os.utime(ahead, (later.timestamp(), later.timestamp()))
    found = check_clock(replace(device, files=(ahead,)), datetime.now(UTC))
    assert f"{ahead} was written then" in found.text


def test_a_certificate_that_has_expired_by_the_clock(brokers: Brokers, tmp_path: Path) -> None:
    device = device_of(make_bundle(brokers, tmp_path / "b"))
    found = check_clock(device, datetime(3500, 1, 1, tzinfo=UTC))
    assert "fedlite fleet rotate" in found.text


@pytest.mark.parametrize(
    ("total", "free", "verdict"),
    [(512, 300, "ok"), (255, 200, "failed"), (256, 150, "ok"), (512, 149, "failed")],
)
def test_memory_below_the_least_is_told(total: int, free: int, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    text = f"MemTotal:       {total * 1024} kB\nMemFree: 1 kB\nMemAvailable: {free * 1024} kB\n"
    (tmp_path / "proc/meminfo").write_text(text)
    assert check_memory(tmp_path).verdict == verdict


def test_a_system_that_does_not_tell_its_memory(tmp_path: Path) -> None:
    assert check_memory(tmp_path).verdict == "skipped"


# the command


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--broker", "mqtt://localhost"], "needs --client NAME"),
        (["--broker", "http://localhost", "--client", "a"], "not the URL of a broker"),
        (["--bundle", "/nowhere"], "is no bundle"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["edge", "check", *words])
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert told in result.output


def test_the_exit_code_is_that_of_the_worst() -> None:
    codes = [Exit.COMPLETE, Exit.UNREACHABLE, Exit.AUTHENTICATION, Exit.CONFIGURATION]
    found = [Finding("x", "failed", "", code) for code in codes]
    assert worst(found) == Exit.AUTHENTICATION
    assert worst(found[:2]) == Exit.UNREACHABLE
    assert worst([found[1], found[3]]) == Exit.CONFIGURATION
    assert worst([]) == Exit.COMPLETE
