"""A fleet's folder: its files and their modes, its certificates, and what its changes leave."""

import datetime as dt
import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.errors import RunError
from broker.provisioning import certificates, passwords, rights
from broker.provisioning.bundle import archive_of, read_bundle
from broker.provisioning.fleet import Fleet
from broker.provisioning.members import Run
from tests.provisioning.fleets import make_fleet

NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,32}", fullmatch=True)
LEVELS = st.sampled_from(["fl", "3", "first", "u", "pi-07", ""])
TOPICS = st.lists(LEVELS, min_size=1, max_size=5).map("/".join)
FILTERS = st.builds(
    lambda levels, end: "/".join([*levels, *end]),
    st.lists(LEVELS | st.just("+"), max_size=5),
    st.sampled_from([["#"], ["+"], ["u"]]),
)
PUBLIC = {"ca.crt", "broker.crt", "mosquitto.conf"}


def modes(folder: Path) -> dict[Path, int]:
    return {path: stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


@pytest.mark.parametrize("by_password", [False, True])
def test_nobody_else_can_read_a_fleets_files(tmp_path: Path, *, by_password: bool) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=by_password)
    fleet.add("pi-09")
    fleet.rotate(["pi-07"])
    for path, mode in modes(tmp_path / "fleet").items():
        outside = path.parent.name in ("ca", "broker") and path.name in PUBLIC
        assert mode == (0o700 if path.is_dir() else 0o644 if outside else 0o600), path
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("by_password", [False, True])
def test_a_bundles_archive_is_its_folder(tmp_path: Path, *, by_password: bool) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=by_password)
    folder = fleet.bundle_folder("pi-07")
    (tmp_path / "device").mkdir()
    subprocess.run(["tar", "-xzf", archive_of(folder), "-C", tmp_path / "device"], check=True)
    unpacked = tmp_path / "device/pi-07"
    assert {path.name: path.read_bytes() for path in unpacked.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert modes(unpacked) == {unpacked: 0o700} | dict.fromkeys(unpacked.iterdir(), 0o600)
    bundle = read_bundle(unpacked, "device")
    assert (bundle.name, bundle.fleet, bundle.role) == ("pi-07", "small", "device")
    assert bundle.access.ca_file == unpacked / "ca.crt"


def test_nothing_that_is_there_is_overwritten(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=False)
    before = {path: path.read_bytes() for path in fleet.folder.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="nothing is overwritten"):
        make_fleet(tmp_path / "fleet", by_password=True)
    with pytest.raises(RunError, match="is in the fleet"):
        fleet.add("pi-07")
    assert {path: path.read_bytes() for path in fleet.folder.rglob("*") if path.is_file()} == before


def test_a_folder_that_could_not_be_finished_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Fleet, "add", _fails)
        with pytest.raises(RunError, match=r"cannot write .*: no more"):
            make_fleet(tmp_path / "fleet", by_password=False)
    assert list(tmp_path.iterdir()) == []
    make_fleet(tmp_path / "fleet", by_password=False)


def _fails(*_arguments: object) -> None:
    raise OSError("no more")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.ip_addresses() | st.sampled_from(["broker.example", "pi-0.local", "b"]), min_size=1, unique=True
    )
)
def test_the_brokers_certificate_has_each_name_and_address(hosts: list[object]) -> None:
    now = dt.datetime.now(dt.UTC)
    authority = certificates.new_authority("f", now)
    issued = certificates.new_broker(authority, list(map(str, hosts)), now)
    builder = PolicyBuilder().store(Store([x509.load_pem_x509_certificate(authority.certificate)]))
    leaf = x509.load_pem_x509_certificate(issued.certificate)
    for host in hosts:
        subject = x509.DNSName(host) if isinstance(host, str) else x509.IPAddress(host)  # type: ignore[arg-type]
        assert builder.build_server_verifier(subject).verify(leaf, [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("other.example")).verify(leaf, [])
    with pytest.raises(x509.verification.VerificationError):
        builder.build_client_verifier().verify(leaf, [])


def test_lifetimes_keys_and_purposes_are_as_stated(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=False)
    authority = certificate(fleet.folder / "ca/ca.crt")
    device = certificate(fleet.bundle_folder("pi-07") / "client.crt")
    broker = certificate(fleet.broker_folder / "broker.crt")
    days = {
        each: (each.not_valid_after_utc - dt.datetime.now(dt.UTC)).days
        for each in (authority, device, broker)
    }
    assert list(days.values()) == [3649, 729, 729]
    for each in days:
        public = each.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        assert isinstance(public.curve, ec.SECP256R1)
    assert device.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "pi-07"
    purposes = device.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0
    key = load_pem_private_key((fleet.bundle_folder("pi-07") / "client.key").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert key.public_key() == device.public_key()


def test_a_member_is_not_valid_for_longer_than_its_authority() -> None:
    now = dt.datetime.now(dt.UTC)
    old = certificates.new_authority("f", now - dt.timedelta(days=certificates.AUTHORITY_DAYS - 10))
    member = certificates.new_member(old, "pi", now)
    assert member.expires <= old.expires


def test_who_is_revoked_is_on_the_list_and_nowhere_else(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=False)
    fleet.rotate(["pi-07"])
    serials = [int(serial, 16) for serial in fleet.state.members["pi-07"].certificates]
    fleet.revoke("pi-07")
    revoked = x509.load_pem_x509_crl((fleet.broker_folder / "revoked.pem").read_bytes())
    authority = certificate(fleet.folder / "ca/ca.crt")
    assert revoked.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    assert {each.serial_number for each in revoked} == set(serials)
    assert len(serials) == 2
    assert revoked.next_update_utc == authority.not_valid_after_utc
    assert "pi-07" not in (fleet.broker_folder / "access.acl").read_text()
    assert not fleet.bundle_folder("pi-07").exists()
    assert not archive_of(fleet.bundle_folder("pi-07")).exists()
    again = Fleet(fleet.folder)
    assert "pi-07" not in again.state.members
    with pytest.raises(RunError, match="not in the fleet"):
        again.revoke("pi-07")
    again.add("pi-07")
    assert set(again.state.members["pi-07"].certificates) & {f"{serial:x}" for serial in serials} == set()


def test_another_run_gives_devices_its_topics_and_a_server_its_bundle(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=True)
    assert fleet.allow([Run("third", ["pi-07", "pi-10"])]) == ["server.third", "pi-10"]
    listed = rights.read_access_list((fleet.broker_folder / "access.acl").read_text())
    assert rights.Rights(listed).may("pi-07", "write", "fl/3/third/u/pi-07")
    assert read_bundle(fleet.bundle_folder("server.third"), "server").name == "third"
    assert fleet.allow([Run("third", [])]) == []


def test_a_run_goes_with_its_server(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=True)
    fleet.revoke("server.first")
    assert "first" not in (fleet.broker_folder / "access.acl").read_text()
    fleet.allow([Run("third", ["pi-11"])])
    fleet.revoke("server.third")
    fleet.rotate(["pi-11"])
    assert read_bundle(fleet.bundle_folder("pi-11"), "device").run == "third"


def test_two_tasks_in_files_of_one_name_are_not_mixed_up(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path / "fleet", by_password=True)
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "task.py").write_text(f"{number}\n")
    fleet.allow([Run("one", [], tmp_path / "1/task.py")])
    with pytest.raises(RunError, match="rename one"):
        fleet.allow([Run("two", [], tmp_path / "2/task.py")])
    fleet.allow([Run("one", [], tmp_path / "2/task.py")])
    assert (fleet.folder / "tasks/task.py").read_text() == "2\n"


def test_a_single_run_stands_in_the_bundles_unless_devices_are_standing(tmp_path: Path) -> None:
    runs = [Run("only", ["a"])]
    for standing in (False, True):
        fleet = Fleet.create(
            tmp_path / str(standing),
            name="f",
            brokers=["mqtts://h"],
            by_password=True,
            runs=runs,
            standing=standing,
        )
        assert read_bundle(fleet.bundle_folder("a"), "device").run == ("" if standing else "only")


def test_a_devices_bundle_has_the_tasks_code(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("print()\n")
    runs = [Run("only", ["a"], code)]
    fleet = Fleet.create(tmp_path / "f", name="f", brokers=["mqtts://h"], by_password=True, runs=runs)
    fleet.add("b", "only")
    for user in ("a", "b"):
        bundle = read_bundle(fleet.bundle_folder(user), "device")
        assert Path(bundle.task_module).read_text() == "print()\n"
        assert Path(bundle.task_module).parent == fleet.bundle_folder(user)


@given(st.text())
def test_passwords_are_recognised_as_mosquitto_stores_them(password: str) -> None:
    stored = passwords.hashed(password)
    assert passwords.is_password(password, stored)
    assert not passwords.is_password(password + "x", stored)
    assert not passwords.is_password(password, stored[:-8])
    assert not passwords.is_password(password, password)


@given(NAMES, st.sampled_from(rights.ROLES))
def test_a_user_is_of_one_role_and_name(name: str, role: rights.Role) -> None:
    assert rights.role_of(rights.user_of(role, name)) == (role, name)


@given(st.text().filter(lambda text: not re.fullmatch("[A-Za-z0-9_-]{1,32}", text)))
def test_what_could_stand_for_more_than_a_name_is_none(text: str) -> None:
    with pytest.raises(RunError, match="cannot be a run or client name"):
        rights.user_of("device", text)


@given(st.lists(NAMES, unique=True), st.lists(NAMES, unique=True, max_size=4))
def test_an_access_list_is_read_as_it_was_written(names: list[str], runs: list[str]) -> None:
    users = [rights.user_of(role, name) for name in names for role in rights.ROLES]
    listed = rights.read_access_list(rights.access_list(users, runs))
    assert listed == {user: rights.rights_of(user, runs) for user in users}


@given(NAMES, NAMES, NAMES, st.sampled_from(["u", "d", "status"]))
def test_no_device_has_a_right_to_anothers_topics(mine: str, other: str, run: str, kind: str) -> None:
    if mine != other:
        held = rights.Rights({mine: rights.rights_of(mine, [run])})
        assert not held.may(mine, "read", f"fl/3/{run}/{kind}/{other}")
        assert not held.may(mine, "write", f"fl/3/{run}/{kind}/{other}")


@given(FILTERS, TOPICS)
def test_a_filter_covers_the_topics_that_mqtt_says(topic_filter: str, topic: str) -> None:
    assert rights.covers(topic_filter, topic) == _matches(topic_filter.split("/"), topic.split("/"))


def _matches(wanted: list[str], topic: list[str]) -> bool:
    """MQTT 3.1.1, 4.7.1, level by level."""
    if not wanted:
        return not topic
    if wanted[0] == "#":
        return True
    if not topic:
        return False
    return wanted[0] in ("+", topic[0]) and _matches(wanted[1:], topic[1:])


@given(FILTERS, FILTERS, TOPICS)
def test_filters_that_have_a_topic_in_common_overlap(one: str, other: str, topic: str) -> None:
    if rights.covers(one, topic) and rights.covers(other, topic):
        assert rights.overlap(one, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("client: pi-07", "clint: pi-07"), "unknown key clint"),
        (("ca_file: ca.crt\n", ""), "ca_file is missing"),
        (("key: client.key\n", ""), "certificate and key belong together"),
        (("fleet: small", "fleet: 5"), "fleet must be text"),
        (("fleet: small", "fleet: [small"), "cannot be read"),
        (("ca_file: ca.crt", "ca_file: ca.crt\ntask_module: [x]"), "task_module must be text"),
    ],
)
def test_a_bundle_that_is_wrong_is_explained(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    folder = make_fleet(tmp_path / "fleet", by_password=False).bundle_folder("pi-07")
    file = folder / "edge.yaml"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(RunError, match=words):
        read_bundle(folder, "device")


def test_a_bundle_whose_secrets_others_can_read_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_fleet(tmp_path / "fleet", by_password=False).bundle_folder("pi-07")
    read_bundle(folder, "device")
    assert not caplog.text
    (folder / "client.key").chmod(0o644)
    read_bundle(folder, "device")
    assert "chmod 600" in caplog.text
