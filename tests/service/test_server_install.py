"""Installing a server: with the broker of its fleet, or its bundle alone; and containers."""

import stat
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from broker.cli.commands import app
from broker.installing import commands
from broker.installing.mosquitto import USER, install_mosquitto
from broker.installing.service import SERVER, Machine
from broker.installing.steps import File
from broker.provisioning.unit import mosquitto_drop_in, server_unit
from scenarios.loading.load import load_scenario
from tests.helpers import SMALL

ROOT = Path(__file__).parents[2]


def fedlite(*words: object) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet of the small scenario, which has a task of its own."""
    folder = tmp_path_factory.mktemp("fleet")
    (folder / "small.yaml").write_text(SMALL)
    done = fedlite(
        "fleet", "init", folder / "small.yaml", "--broker", "mqtt.example", "--to", folder / "fleet"
    )
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "image").mkdir()
    return tmp_path / "image"


def test_a_server_and_its_broker_are_installed_and_removed(fleet: Path, image: Path) -> None:
    done = fedlite("server", "install", fleet / "fleet", fleet / "small.yaml", "--root", image)
    assert done.exit_code == 0, done.output
    folder = image / SERVER.bundle.lstrip("/")
    assert {path.name for path in folder.iterdir()} == {
        "ca.crt", "client.crt", "client.key", "server.yaml", "scenario.yaml", "small_task.py",
    }  # fmt: skip
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    scenario = yaml.safe_load((folder / "scenario.yaml").read_text())
    assert scenario["task"]["module"] == "/etc/fedlite/server/small_task.py"
    assert "url" not in scenario["broker"]
    scenario["task"]["module"] = str(folder / "small_task.py")
    (folder / "scenario.yaml").write_text(yaml.safe_dump(scenario))
    assert load_scenario(str(folder / "scenario.yaml")).training.rounds == 20
    assert (image / "etc/systemd/system/fedlite-server.service").read_text() == server_unit("small")
    broker = image / "etc/mosquitto/fedlite"
    assert {path.name for path in broker.iterdir()} == {
        path.name for path in (fleet / "fleet/broker").iterdir()
    }
    config = (broker / "mosquitto.conf").read_text()
    assert "certfile /etc/mosquitto/fedlite/broker.crt\n" in config
    assert str(fleet) not in config
    drop_in = image / "etc/systemd/system/mosquitto.service.d/fedlite.conf"
    assert drop_in.read_text() == mosquitto_drop_in()
    results = image / "var/lib/fedlite-server"
    (results / "runs").mkdir(parents=True)
    assert fedlite("server", "uninstall", "--root", image).exit_code == 0
    assert [path for path in image.rglob("*") if not path.is_dir()] == []
    assert (results / "runs").is_dir()
    assert fedlite("server", "uninstall", "--root", image, "--delete-results").exit_code == 0
    assert not results.exists()


def test_a_bundle_alone_brings_no_broker(fleet: Path, image: Path) -> None:
    bundle = fleet / "fleet/bundles/server.small.tar.gz"
    done = fedlite("server", "install", bundle, fleet / "small.yaml", "--root", image)
    assert done.exit_code == 0, done.output
    assert not (image / "etc/mosquitto").exists()
    assert "server.yaml" in {path.name for path in (image / "etc/fedlite/server").iterdir()}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fleet", "small.yaml", "--run", "second"], "has no run second: `fedlite fleet allow"),
        (["fleet/bundles/c0", "small.yaml"], "is the bundle of a device, not of a server"),
        (["fleet/bundles/server.small", "small.yaml", "--run", "second"], "is for run small, not second"),
    ],
)
def test_what_does_not_fit_is_told(fleet: Path, image: Path, words: list[str], told: str) -> None:
    places = [fleet / word if "/" in word or word in ("fleet", "small.yaml") else word for word in words]
    done = fedlite("server", "install", *places, "--root", image)
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
    assert told in done.output
    assert list(image.iterdir()) == []


def test_a_machine_without_mosquitto_is_told_so(fleet: Path, image: Path) -> None:
    (image / "etc").mkdir()
    (image / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    done = fedlite("server", "install", fleet / "fleet", fleet / "small.yaml", "--root", image)
    assert done.exit_code == 2
    assert "apt-get install mosquitto" in done.output


def test_on_a_machine_that_runs_the_broker_starts_before_the_server(
    fleet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Machine, "here", lambda _root: Machine(systemd=True))
    monkeypatch.setattr(Machine, "knows", lambda _self, _user: True)
    monkeypatch.setattr(commands, "why_unreachable", lambda _path: None)
    done = fedlite("server", "install", fleet / "fleet", fleet / "small.yaml", "--dry-run")
    lines = [line.strip() for line in done.output.splitlines()]
    broker = lines.index("run           systemctl restart mosquitto.service")
    assert broker < lines.index("run           systemctl restart --no-block fedlite-server.service")


def test_the_brokers_files_are_its_own_users(fleet: Path) -> None:
    files = {path.name: path.read_bytes() for path in (fleet / "fleet/broker").iterdir()}
    steps = install_mosquitto(files, Machine(Path("/nowhere"), systemd=True))
    secret = [step for step in steps if isinstance(step, File) and step.path.endswith("broker.key")]
    assert [(step.mode, step.owner) for step in secret] == [(0o600, USER)]


# containers


def test_the_compose_file_names_what_there_is() -> None:
    """There is no Docker here: only its form is looked at, and that its command lines are right."""
    told = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    assert told.keys() == {"services", "volumes"}
    known = {
        "image", "build", "user", "command", "restart", "ports", "read_only", "cap_drop", "security_opt",
        "mem_limit",
        "tmpfs", "volumes", "depends_on", "stop_grace_period", "environment",
    }  # fmt: skip
    for service in told["services"].values():
        assert service.keys() <= known
        assert ("image" in service) != ("build" in service)
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert source.startswith("./") or source in told["volumes"]
            assert target.startswith("/")
            assert mode in ([], ["ro"])
    words: list[str] = told["services"]["server"]["command"].split()
    assert words[0] == "server"
    assert 'ENTRYPOINT ["fedlite"]' in told["services"]["server"]["build"]["dockerfile_inline"]
    parsed = fedlite("server", "--help").output
    assert all(word in parsed for word in words if word.startswith("--"))
    assert (ROOT / told["services"]["server"]["build"]["context"]).exists()
