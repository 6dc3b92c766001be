"""The folder of a fleet, which makes its authority, its brokers' files and its members' bundles.

    fleet.json        who is in it, which runs it has, which certificates are revoked
    ca/               the authority: whoever has ca.key can make members
    broker/           all that the broker's machine needs: configuration, access list, certificate
    bundles/NAME/     what a member needs, and the same as NAME.tar.gz
    tasks/            code of tasks, for the bundles of devices that come later

fleet.json is what counts: the broker's files are made of it, again at each change.
"""

import datetime as dt
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from broker.errors import RunError
from broker.files import PUBLIC_FILE, private_folder, write_file, writing
from broker.provisioning import configuration as conf
from broker.provisioning import passwords
from broker.provisioning.bundle import archive_of, bundle_files, write_bundle
from broker.provisioning.certificates import Issued, new_authority, new_broker, new_member, revoked_list
from broker.provisioning.members import Member, Run, State
from broker.provisioning.own_tasks import code_of, keep_code
from broker.provisioning.rights import access_list, role_of, user_of
from broker.urls import parse_urls
from broker.wire.topics import check_name

_STATE = "fleet.json"
OPERATOR, OBSERVER = user_of("operator", "main"), user_of("observer", "main")


class Fleet:
    """A fleet's folder that is there. Every change is on the disk when its method returns.

    Args:
        folder: see the module's text.

    Raises:
        RunError: it is no fleet's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.state = msgspec.json.decode((folder / _STATE).read_bytes(), type=State)
        except FileNotFoundError:
            raise RunError(
                f"{folder} is no fleet: it has no {_STATE}; `fedlite fleet init` makes one"
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise RunError(f"{folder / _STATE} cannot be read: {error}") from error

    @classmethod
    def create(
        cls,
        folder: Path,
        *,
        name: str,
        brokers: Sequence[str],
        by_password: bool,
        runs: Sequence[Run],
        broker_files: Path | None = None,
        standing: bool = False,
    ) -> "Fleet":
        """Make a fleet, with a server for each run, a device for each client, an operator and an observer.

        Args:
            folder: to make; it must not be there, or be empty.
            name: of the fleet.
            brokers: URLs with mqtts://.
            by_password: see State.passwords.
            runs: at least one.
            broker_files: see State; None: where they are made.
            standing: devices are to take any run, also if there is only one.

        Raises:
            RunError: the folder is there, or cannot be written to; a name that cannot be one.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise RunError(f"{folder} is there already; nothing is overwritten: name another folder by --to")
        check_name(name)
        lasting = str(broker_files or (folder / "broker").resolve())
        state = State(name, list(brokers), by_password, lasting, {})
        making = folder.with_name(f".{folder.name}.part")
        with writing(folder):
            shutil.rmtree(making, ignore_errors=True)
            try:
                fleet = cls._make(making, state)
                fleet.allow(runs, standing=standing)
                for user in (OPERATOR, OBSERVER):
                    fleet.add(user)
                with suppress(FileNotFoundError):
                    folder.rmdir()
                making.rename(folder)
            finally:
                shutil.rmtree(
                    making, ignore_errors=True
                )  # there is still something if it could not be finished
        fleet.folder = folder
        return fleet

    @classmethod
    def _make(cls, folder: Path, state: State) -> "Fleet":
        """Make a fleet's authority, and a broker that nobody may use yet."""
        private_folder(folder / "ca")
        private_folder(folder)
        authority = new_authority(state.name, _now())
        write_file(folder / "ca/ca.crt", authority.certificate, mode=PUBLIC_FILE)
        write_file(folder / "ca/ca.key", authority.key, durable=True)
        write_file(folder / _STATE, msgspec.json.encode(state))
        fleet = cls(folder)
        fleet.rotate_broker()
        return fleet

    @property
    def broker_folder(self) -> Path:
        """The files for the broker's machine."""
        return self.folder / "broker"

    def bundle_folder(self, user: str) -> Path:
        """The bundle of a member."""
        return self.folder / "bundles" / user

    def allow(self, runs: Iterable[Run], *, standing: bool = False) -> list[str]:
        """Let the fleet have runs, each with a server; give the users that are new.

        Args:
            runs: those that it has already may bring new clients.
            standing: bundles of new devices name no run.

        Raises:
            RunError: a name that cannot be one, or the folder cannot be written to.
        """
        runs = list(runs)
        single = not standing and len(runs) == 1
        for run in runs:
            known = self.state.runs.get(run.name, "")
            self.state.runs[check_name(run.name)] = (
                keep_code(self.folder / "tasks", run, self.state.runs) or known
            )
        wanted = {user_of("server", run.name): "" for run in runs}
        for run in runs:
            wanted |= {user_of("device", client): run.name if single else "" for client in run.clients}
        new = {user: run for user, run in wanted.items() if user not in self.state.members}
        self.state.members |= {user: Member(run) for user, run in new.items()}
        self._issue(new)
        return list(new)

    def add(self, user: str, run: str = "") -> None:
        """Take a member in.

        Args:
            user: see rights.user_of.
            run: that the bundle of a device is to name.

        Raises:
            RunError: it is in the fleet; a run that is not the fleet's; the folder cannot be written to.
        """
        if user in self.state.members:
            raise RunError(f"{user} is in the fleet; `fedlite fleet rotate {user}` makes it a new bundle")
        if run and run not in self.state.runs:
            raise RunError(f"the fleet has no run {run!r}: `fedlite fleet allow {run}`")
        self.state.members[user] = Member(run)
        self._issue([user])

    def revoke(self, user: str) -> None:
        """Put a member out: its certificates are revoked, its password and its rights are gone.

        With a server the fleet's run is gone, too.

        Raises:
            RunError: it is not in the fleet, or the folder cannot be written to.
        """
        member = self._member(user)
        del self.state.members[user]
        role, name = role_of(user)
        if role == "server":
            del self.state.runs[name]
        self.state.revoked += member.certificates
        with writing(self.folder):
            self._save()
            shutil.rmtree(self.bundle_folder(user), ignore_errors=True)
            archive_of(self.bundle_folder(user)).unlink(missing_ok=True)

    def rotate(self, users: Iterable[str], *, at_once: bool = False) -> None:
        """Make members new credentials.

        An old password ends when the broker reads its new files. An old certificate stays valid until it
        expires, so that devices can be served one after another.

        Args:
            users: members.
            at_once: revoke the old certificates.

        Raises:
            RunError: one is not in the fleet, or the folder cannot be written to.
        """
        users = list(users)
        for user in users:
            member = self._member(user)
            if at_once:
                self.state.revoked += member.certificates
                member.certificates = {}
        self._issue(users)

    def rotate_broker(self) -> None:
        """Make the brokers a new certificate and key.

        Raises:
            RunError: the folder cannot be written to.
        """
        hosts = [address.host for address in parse_urls(self.state.brokers)]
        with writing(self.folder):
            issued = new_broker(self._authority(), hosts, _now())
            self.state.broker_expires = issued.expires
            private_folder(self.broker_folder)
            write_file(self.broker_folder / conf.KEY, issued.key)
            write_file(self.broker_folder / conf.CERTIFICATE, issued.certificate, mode=PUBLIC_FILE)
            self._save()

    def _issue(self, users: Iterable[str]) -> None:
        """Make credentials for members, and write their bundles when the fleet knows of them."""
        authority, secrets = self._authority(), dict[str, dict[str, bytes]]()
        for user in users:
            member, trust = self.state.members[user], {"ca.crt": authority.certificate}
            if self.state.passwords:
                password = passwords.new_password()
                member.password = passwords.hashed(password)
                secrets[user] = trust | {"password": f"{password}\n".encode()}
            else:
                issued = new_member(authority, user, _now())
                member.certificates = {**member.certificates, issued.serial: issued.expires}
                secrets[user] = trust | {"client.crt": issued.certificate, "client.key": issued.key}
        with writing(self.folder):
            self._save()
            private_folder(self.folder / "bundles")
            for user, files in secrets.items():
                role, name = role_of(user)
                run = self.state.members[user].run
                bundle = bundle_files(
                    role,
                    name,
                    fleet=self.state.name,
                    brokers=self.state.brokers,
                    secrets=files,
                    run=run,
                    modules=code_of(self.folder / "tasks", run, self.state.runs),
                )
                write_bundle(self.bundle_folder(user), bundle)

    def _save(self) -> None:
        """Write fleet.json, and the broker's files that follow from it."""
        state, folder = self.state, self.broker_folder
        write_file(self.folder / _STATE, msgspec.json.format(msgspec.json.encode(state)), durable=True)
        authority = self._authority()
        write_file(folder / conf.AUTHORITY, authority.certificate, mode=PUBLIC_FILE)
        write_file(folder / conf.ACCESS, access_list(state.members, list(state.runs)).encode())
        if state.passwords:
            lines = [f"{user}:{member.password}\n" for user, member in state.members.items()]
            write_file(folder / conf.PASSWORDS, "".join(lines).encode())
        else:
            write_file(folder / conf.REVOKED, revoked_list(authority, state.revoked, _now()))
        port = parse_urls(state.brokers)[0].port
        files, data = state.broker_files, "/var/lib/mosquitto"
        text = conf.fleet_config(files, data, port=port, passwords=state.passwords)
        write_file(folder / conf.CONFIG, text.encode(), mode=PUBLIC_FILE)

    def _member(self, user: str) -> Member:
        if user not in self.state.members:
            known = ", ".join(self.state.members)
            raise RunError(f"{user!r} is not in the fleet {self.state.name}; there are {known}")
        return self.state.members[user]

    def _authority(self) -> Issued:
        try:
            certificate, key = ((self.folder / "ca" / name).read_bytes() for name in ("ca.crt", "ca.key"))
        except OSError as error:
            raise RunError(f"the fleet's authority cannot be read: {error}") from error
        return Issued(certificate, key, "", "")


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
