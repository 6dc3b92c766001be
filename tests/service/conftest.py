"""A Mosquitto with TLS, passwords and an access list, and beside it listeners with a mistake each."""

import functools
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
import yaml

USERS = ("server", "pi-07", "c0")
ACCESS = """
user server
topic readwrite fl/#
pattern read fl/+/+/state
pattern read fl/+/+/scenario
pattern read fl/+/+/d/%u
pattern write fl/+/+/u/%u
pattern write fl/+/+/status/%u
"""
NOW = datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Brokers:
    """Where the listeners are.

    Attributes:
        folder: has ca.crt and other.crt, the authority of another fleet.
        ports: by name: good, loose (no access list), expired, early, misnamed, plain (no TLS), mutual (asks
            for a certificate of the client).
        small: port of a broker that takes small packets only; without TLS, for everybody.
    """

    folder: Path
    ports: dict[str, int]
    small: int

    def url(self, name: str, host: str = "localhost") -> str:
        return f"mqtt{'' if name == 'plain' else 's'}://{host}:{self.ports[name]}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < until, "mosquitto did not start"
            time.sleep(0.05)
        else:
            return


def start(program: str, config: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    file = folder / f"{port}.conf"
    file.write_text(config)
    process = subprocess.Popen(
        [program, "-c", str(file)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(port)
    return process


@pytest.fixture(scope="session")
def brokers(mosquitto_program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    trustme.CA().cert_pem.write_to_path(folder / "other.crt")
    year = timedelta(days=365)
    issue = functools.partial(authority.issue_cert, not_before=NOW - year, not_after=NOW + year)
    certificates = {
        "good": issue("localhost", "127.0.0.1"),
        "loose": issue("localhost"),
        "expired": issue("localhost", not_after=NOW - timedelta(days=1)),
        "early": issue("localhost", not_before=NOW + timedelta(days=1)),
        "misnamed": issue("elsewhere.example", "192.0.2.1"),
        "mutual": issue("localhost"),
    }
    for name, whose in {"pi-07": authority, "stranger": trustme.CA()}.items():
        client = whose.issue_cert(common_name="pi-07")
        client.private_key_pem.write_to_path(folder / f"client-{name}.key")
        client.cert_chain_pems[0].write_to_path(folder / f"client-{name}.crt")
    passwords = folder / "passwords"
    passwords.touch()
    for user in USERS:
        helper = shutil.which("mosquitto_passwd") or "mosquitto_passwd"
        subprocess.run([helper, "-b", passwords, user, f"secret-{user}"], check=True, capture_output=True)
    (folder / "access").write_text(ACCESS)
    ports = {name: free_port() for name in (*certificates, "plain")}
    lines = ["user root", "per_listener_settings true", "max_packet_size 200000"]
    for name, certificate in certificates.items():
        certificate.private_key_pem.write_to_path(folder / f"{name}.key")
        (folder / f"{name}.crt").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
        lines += [f"listener {ports[name]} 127.0.0.1", "allow_anonymous false"]
        if name == "mutual":
            lines += ["require_certificate true", "use_identity_as_username true", f"cafile {folder}/ca.crt"]
        else:
            lines += [f"password_file {passwords}"]
        lines += [f"certfile {folder}/{name}.crt", f"keyfile {folder}/{name}.key"]
        lines += [] if name == "loose" else [f"acl_file {folder}/access"]
    lines += [f"listener {ports['plain']} 127.0.0.1", "allow_anonymous true"]
    small = free_port()
    limited = ["user root", f"listener {small} 127.0.0.1", "allow_anonymous true", "max_packet_size 65536"]
    processes = [
        start(mosquitto_program, "\n".join(lines) + "\n", folder, ports["plain"]),
        start(mosquitto_program, "\n".join(limited) + "\n", folder, small),
    ]
    yield Brokers(folder, ports, small)
    for process in processes:
        process.terminate()
        process.wait(10)


def make_bundle(brokers: Brokers, folder: Path, name: str = "pi-07", **changes: object) -> Path:
    """Write a device's bundle with changes of its edge.yaml; a change to None leaves the key out."""
    folder.mkdir(parents=True)
    shutil.copy(brokers.folder / "ca.crt", folder / "ca.crt")
    shutil.copy(brokers.folder / "other.crt", folder / "other.crt")
    (folder / "password").write_text(f"secret-{name}\n")
    told: dict[str, object] = {
        "fleet": "home",
        "client": name,
        "broker": [brokers.url("good")],
        "ca_file": "ca.crt",
        "user": name,
        "password_file": "password",
    }
    told |= changes
    (folder / "edge.yaml").write_text(
        yaml.safe_dump({key: value for key, value in told.items() if value is not None})
    )
    return folder
