"""Installing a device: what is written, for whom, and that nothing of it is left after removal."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from broker.cli.commands import app
from broker.errors import RunError
from broker.installing import commands, steps
from broker.installing.commands import describe
from broker.installing.service import EDGE, Machine, in_a_home, why_unreachable
from broker.installing.steps import File, Folder, Link, Move, Remove, Run, carry_out
from broker.provisioning.unit import unit_text
from edge_client.service import installed

BUNDLE = {
    "edge.yaml": b"fleet: home\nclient: pi-07\nbroker: [mqtt://a.example]\nca_file: ca.crt\n"
    b"user: pi-07\npassword_file: password\ntask_module: task.py\n",
    "ca.crt": b"",
    "password": b"secret\n",
    "task.py": b"",
}
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to another user")


def make_bundle(folder: Path, **changes: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (BUNDLE | {key.replace("__", "."): value for key, value in changes.items()}).items():
        (folder / name).write_bytes(content)
    return folder


def edge(*words: object) -> Result:
    return CliRunner().invoke(app, ["edge", *map(str, words)])


def tree(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A system's image with a list of users and nothing else."""
    root = tmp_path / "image"
    (root / "etc").mkdir(parents=True)
    for name in ("passwd", "group", "shadow", "gshadow"):
        (root / "etc" / name).write_text("")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    return root


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "pi-07")


@ROOT
def test_a_device_is_put_into_an_image_and_taken_out_again(image: Path, bundle: Path) -> None:
    before = tree(image)
    done = edge("install", bundle, "--root", image)
    assert done.exit_code == 0, done.output
    folder = image / "etc/fedlite/edge"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == BUNDLE
    user = steps.ids_of(EDGE.user, image)
    assert user is not None
    assert user[0] != 0
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for path in (folder, *folder.iterdir()):
        assert (path.stat().st_uid, path.stat().st_gid) == user
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    unit = image / "etc/systemd/system/fedlite-edge.service"
    assert unit.read_text() == unit_text("home", "pi-07")
    link = image / "etc/systemd/system/multi-user.target.wants/fedlite-edge.service"
    assert (link.parent / link.readlink()).resolve() == unit
    assert edge("status", "--root", image).output.startswith(
        "pi-07 of fleet home, any run, broker mqtt://a.example:1883"
    )
    assert "secret" not in edge("status", "--root", image).output
    gone = edge("uninstall", "--root", image)
    assert gone.exit_code == 0, gone.output
    assert steps.ids_of(EDGE.user, image) is None
    left = tree(image) - before
    assert {name for name in left if "fedlite" in name or not (image / name).is_dir()} <= {
        f"etc/{name}{end}" for name in ("passwd", "group", "shadow", "gshadow") for end in ("-", ".lock")
    }


@ROOT
def test_the_second_installation_replaces_every_file_of_the_first(image: Path, tmp_path: Path) -> None:
    assert edge("install", make_bundle(tmp_path / "a", old__key=b"old"), "--root", image).exit_code == 0
    assert edge("update", make_bundle(tmp_path / "b", password=b"new\n"), "--root", image).exit_code == 0
    folder = image / "etc/fedlite/edge"
    assert {path.name for path in folder.iterdir()} == BUNDLE.keys()
    assert (folder / "password").read_bytes() == b"new\n"
    assert {path.name for path in folder.parent.iterdir()} == {"edge"}


@ROOT
def test_an_update_without_a_bundle_writes_the_unit_anew(image: Path, bundle: Path) -> None:
    assert edge("install", bundle, "--root", image).exit_code == 0
    unit = image / "etc/systemd/system/fedlite-edge.service"
    unit.write_text("of an older version")
    assert edge("update", "--root", image, "--program", "/srv/fedlite").exit_code == 0
    assert "ExecStart=/srv/fedlite edge --bundle /etc/fedlite/edge --stay\n" in unit.read_text()
    assert (image / "etc/fedlite/edge/password").read_bytes() == b"secret\n"


def test_a_bundle_of_another_device_replaces_nothing(tmp_path: Path, bundle: Path) -> None:
    image = tmp_path / "bare"
    image.mkdir()
    assert edge("install", bundle, "--root", image).exit_code == 0
    other = make_bundle(tmp_path / "pi-08", edge__yaml=BUNDLE["edge.yaml"].replace(b"pi-07", b"pi-08"))
    for command in ("install", "update"):
        refused = edge(command, other, "--root", image)
        assert refused.exit_code == 2
        assert "this machine is pi-07, and the bundle is that of pi-08" in refused.output


def test_a_dry_run_tells_and_writes_nothing(image: Path, bundle: Path) -> None:
    before = tree(image)
    done = edge("install", bundle, "--root", image, "--dry-run")
    assert done.exit_code == 0
    assert tree(image) == before
    assert "write         /etc/fedlite/.edge.new/password (0600 fedlite-edge, 7 bytes)" in done.output
    assert "useradd --prefix" in done.output
    assert "secret" not in done.output
    live = edge("install", bundle, "--dry-run")
    assert "systemctl" in live.output or "by hand" in live.output or not Path("/run/systemd/system").exists()


def test_a_broken_bundle_is_refused_before_anything_is_written(image: Path, tmp_path: Path) -> None:
    before = tree(image)
    broken = make_bundle(tmp_path / "b", edge__yaml=b"fleet: home\nclient: pi-07\nbrokr: x\n")
    done = edge("install", broken, "--root", image)
    assert done.exit_code == 2
    assert "unknown key brokr" in done.output
    assert tree(image) == before


@pytest.mark.parametrize("command", ["status", "update"])
def test_where_nothing_is_installed_that_is_told(command: str, tmp_path: Path) -> None:
    done = edge(command, "--root", tmp_path)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "`fedlite edge install BUNDLE` installs one" in done.output


def test_who_is_not_root_is_told_the_command_to_use(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["fedlite", "edge", "install", "my bundle"])
    done = edge("install", bundle)
    assert done.exit_code == 2
    assert "needs root: sudo /" in done.output
    assert "fedlite edge install 'my bundle'" in done.output


def test_the_same_steps_on_a_machine_that_runs(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()
    monkeypatch.setattr(commands, "carry_out", lambda found, _root: done.extend(map(str, found)))
    monkeypatch.setattr(installed, "need_root", lambda *_a, **_b: None)
    monkeypatch.setattr(commands, "why_unreachable", lambda _path: None)
    monkeypatch.setattr(Machine, "here", lambda _root: Machine(systemd=True))
    monkeypatch.setattr(installed, "_installed", lambda _machine: None)
    assert edge("install", bundle).exit_code == 0
    assert done[-3:] == [
        "run           systemctl daemon-reload",
        "run           systemctl enable fedlite-edge.service",
        "run           systemctl restart --no-block fedlite-edge.service",
    ]
    done.clear()
    monkeypatch.setattr(Machine, "here", lambda _root: Machine(systemd=False))
    told = edge("install", bundle).output
    assert not any("systemctl" in line or ".service" in line for line in done)
    assert "runuser -u fedlite-edge -- env HOME=/var/lib/fedlite-edge" in told


# steps


def test_no_step_leaves_the_image(tmp_path: Path) -> None:
    image, outside = tmp_path / "image", tmp_path / "outside"
    image.mkdir()
    outside.mkdir()
    (outside / "kept").touch()
    (image / "etc").symlink_to(outside)
    for step in (
        File("/etc/x", b""),
        Folder("/etc/x"),
        Link("/etc/x", "y"),
        Remove("/etc/kept"),
        Move("/etc/kept", "/x"),
        File("/../outside/x", b""),
    ):
        with pytest.raises(RunError, match="leads out of"):
            carry_out([step], image)
    assert tree(outside) == {"kept"}


def test_a_file_that_a_link_stands_for_is_replaced_and_not_followed(tmp_path: Path) -> None:
    image, outside = tmp_path / "image", tmp_path / "outside"
    (image / "etc").mkdir(parents=True)
    outside.write_text("old")
    (image / "etc/x").symlink_to(outside)
    (image / "etc/.x.part").symlink_to(outside)
    carry_out([File("/etc/x", b"new", 0o600)], image)
    assert outside.read_text() == "old"
    assert (image / "etc/x").read_bytes() == b"new"
    carry_out([Remove("/etc/x"), Remove("/etc", if_empty=True), Remove("/etc", if_empty=True)], image)
    assert tree(image) == set()


def test_a_step_that_fails_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"`sh -c 'echo why >&2; exit 3'` failed with code 3: why"):
        carry_out([Run(("sh", "-c", "echo why >&2; exit 3"))], tmp_path)
    with pytest.raises(RunError, match="no-such-program cannot be run"):
        carry_out([Run(("no-such-program",))], tmp_path)
    carry_out([Run(("false",), must=False), Run(("no-such-program",), must=False)], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot write"):
        carry_out([File("/file/x", b"")], tmp_path)


def test_a_program_in_a_closed_folder_is_noticed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "open").mkdir(mode=0o755)
    program = tmp_path / "open/fedlite"
    program.touch(mode=0o755)
    closed = [each for each in tmp_path.parents if not each.stat().st_mode & stat.S_IXOTH]
    assert why_unreachable(program) == (f"{closed[-1]} is its owner's alone" if closed else None)
    (tmp_path / "open").chmod(0o700)
    assert why_unreachable(program) is not None
    assert why_unreachable(tmp_path / "nothing") == f"there is no {tmp_path / 'nothing'}"
    assert why_unreachable(Path("/usr/bin/env")) is None


def test_homes_are_known() -> None:
    assert in_a_home("/opt/x", "/home/pi/data")
    assert not in_a_home("/opt/x", "", "/homework")


# status


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (
            "ActiveState=active SubState=running ActiveEnterTimestamp=Mon MemoryCurrent=314572800",
            "active (running) since Mon, 300 MiB",
        ),
        (
            "ActiveState=failed SubState=failed ExecMainStatus=3 Result=exit-code NRestarts=2",
            "failed (failed), started again 2 times, ended with 3 (authentication)",
        ),
        (
            "ActiveState=activating SubState=auto-restart ExecMainStatus=9 Result=oom-kill",
            "activating (auto-restart), ended with 9 (a signal or a limit), oom-kill",
        ),
        ("MemoryCurrent=18446744073709551615", "unknown (unknown)"),
    ],
)
def test_the_state_of_a_service_is_told_in_a_line(shown: str, told: str) -> None:
    assert describe(dict(pair.split("=") for pair in shown.split())) == told


def test_a_package_that_root_alone_can_read_is_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setattr(installed, "need_root", lambda *_a, **_b: None)
    monkeypatch.setattr(installed, "_installed", lambda _machine: None)
    (tmp_path / "fedlite").touch(mode=0o755)
    done = edge("install", bundle, "--program", tmp_path / "fedlite", "--dry-run")
    assert done.exit_code == 2
    assert "is its owner's alone. Put the package where every user can read it" in done.output


def test_useradd_is_there_for_these_tests() -> None:
    if os.geteuid() == 0:
        assert subprocess.run(["useradd", "--help"], capture_output=True, check=False).returncode == 0
