"""A bundle: the folder, or the same as .tar.gz, with all that a member of a fleet needs to get to its broker.

edge.yaml            of a device: its name, its run, the broker, and the names of the files beside it
server.yaml, operator.yaml, observer.yaml   the same for the others
ca.crt               the authority that has signed the broker's certificate
client.crt, client.key   what says who it is; or instead of them
password
task.py, ...         a device's: the task's own code, if the scenario has such
fedlite-edge.service   a device's: its systemd unit
"""

import io
import logging
import stat
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from broker.errors import RunError
from broker.files import PRIVATE_FILE, PRIVATE_FOLDER, private_folder, write_file
from broker.provisioning.rights import ROLES, Role
from broker.provisioning.unit import UNIT_FILE, unit_text
from broker.transports.access import Access, read_password
from broker.urls import Address, parse_urls, with_password

log = logging.getLogger(__name__)

AUTHORITY, CERTIFICATE, KEY, PASSWORD = "ca.crt", "client.crt", "client.key", "password"

_NAME_KEY: Mapping[Role, str] = {"device": "client", "server": "run", "operator": "name", "observer": "name"}
_FILES: Mapping[Role, str] = {role: f"{'edge' if role == 'device' else role}.yaml" for role in ROLES}
_ALWAYS = {"fleet", "broker", "ca_file"}
_MAY = {"certificate", "key", "user", "password_file"}
_OF_DEVICES = {"run", "task_module", "data"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a member of a fleet has.

    Attributes:
        folder: where it lies.
        fleet: name of the fleet.
        role: what it is in the fleet.
        name: of the device, the server's run, or what people call an operator or observer.
        access: how it gets to the broker.
        run: that a device takes part in; empty: a standing one, which may take any run of its fleet.
        task_module: the task's own code, for a device; empty for none.
        data: where a device has its own data; empty for nowhere in particular.
    """

    folder: Path
    fleet: str
    role: Role
    name: str
    access: Access
    run: str = ""
    task_module: str = ""
    data: str = ""


def bundle_files(
    role: Role,
    name: str,
    *,
    fleet: str,
    brokers: Sequence[str],
    secrets: Mapping[str, bytes],
    run: str = "",
    modules: Mapping[str, bytes],
) -> dict[str, bytes]:
    """Give the files of a bundle by their names.

    Args:
        role: of the member.
        name: see Bundle.
        fleet: name of the fleet.
        brokers: URLs, without users.
        secrets: ca.crt, and either client.crt and client.key or password.
        run: see Bundle.
        modules: files of tasks by name. A single one is what the device runs; of several it needs to be told.
    """
    told: dict[str, Any] = {"fleet": fleet, _NAME_KEY[role]: name}
    if role == "device" and run:
        told["run"] = run
    told |= {"broker": list(brokers), "ca_file": AUTHORITY}
    if PASSWORD in secrets:
        told |= {"user": name if role == "device" else f"{role}.{name}", "password_file": PASSWORD}
    else:
        told |= {"certificate": CERTIFICATE, "key": KEY}
    files = dict(secrets)
    if role == "device":
        files |= modules
        files[UNIT_FILE] = unit_text(fleet, name).encode()
        if len(modules) == 1:
            told["task_module"] = next(iter(modules))
    text = "# paths are relative to this file\n" + yaml.safe_dump(told, sort_keys=False)
    if role == "device":
        text += "# data: /home/pi/data   # this device's own data\n"
    return {_FILES[role]: text.encode()} | files


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle as a folder and as an archive beside it, both for their owner alone.

    Args:
        folder: such as bundles/pi-07; what is there already is replaced file by file.
        files: see bundle_files.

    Raises:
        OSError: it cannot be written.
    """
    private_folder(folder)
    for name, content in files.items():
        write_file(folder / name, content)
    write_file(archive_of(folder), _archive(folder.name, files))


def archive_of(folder: Path) -> Path:
    """Give the path of the archive beside a bundle's folder."""
    return folder.with_name(f"{folder.name}.tar.gz")


def _archive(name: str, files: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        top = tarfile.TarInfo(name)
        top.type, top.mode = tarfile.DIRTYPE, PRIVATE_FOLDER
        archive.addfile(top)
        for file, content in files.items():
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size, entry.mode = len(content), PRIVATE_FILE
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def read_bundle(folder: Path, *roles: Role) -> Bundle:
    """Read a bundle.

    Args:
        folder: of the bundle.
        roles: whose bundles will do.

    Raises:
        RunError: it is no bundle, of another role, or something in it is wrong.
        BrokerError: a URL, certificate or password in it that cannot be read.
    """
    if folder.name.endswith(".tar.gz"):
        raise RunError(f"{folder} is an archive; unpack it (tar -xzf {folder}) and name its folder")
    found = next((role for role in ROLES if (folder / _FILES[role]).is_file()), None)
    if found is None:
        raise RunError(f"{folder} is no bundle: it has no {_FILES[roles[0]]}; `fedlite fleet` makes bundles")
    file = folder / _FILES[found]
    if found not in roles:
        raise RunError(f"{folder} is the bundle of {_with_article(found)}, not of {_with_article(roles[0])}")
    told = _checked(_mapping(file), found, file)
    brokers = parse_urls(told["broker"])
    if told.get("user"):
        password = read_password(_private(folder, told["password_file"]))
        brokers = with_password(_as_user(brokers, told["user"]), password)
    access = Access(
        brokers,
        folder / told["ca_file"],
        folder / told["certificate"] if told.get("certificate") else None,
        _private(folder, told["key"]) if told.get("key") else None,
    )
    module = told.get("task_module", "")
    return Bundle(
        folder,
        told["fleet"],
        found,
        told[_NAME_KEY[found]],
        access,
        run=told.get("run", ""),
        task_module=str(folder / module) if module.endswith(".py") else module,
        data=str(folder / told["data"]) if told.get("data") else "",
    )


def _mapping(file: Path) -> dict[str, Any]:
    try:
        told = yaml.safe_load(file.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f"{file}: cannot be read: {error}") from error
    if not isinstance(told, dict):
        raise RunError(f"{file}: must be a mapping of keys to values")
    return told


def _checked(told: dict[str, Any], role: Role, file: Path) -> dict[str, Any]:
    """Give what stands in a bundle's file if it has the keys and types that it must have."""
    needed = _ALWAYS | {_NAME_KEY[role]}
    allowed = needed | _MAY | (_OF_DEVICES if role == "device" else set())
    if unknown := sorted(map(str, told.keys() - allowed)):
        raise RunError(f"{file}: unknown key {', '.join(unknown)}; allowed: {', '.join(sorted(allowed))}")
    if missing := sorted(needed - told.keys()):
        raise RunError(f"{file}: {', '.join(missing)} is missing")
    if isinstance(told["broker"], str):
        told["broker"] = [told["broker"]]
    for key, value in told.items():
        texts = value if key == "broker" and isinstance(value, list) and value else [value]
        if not all(isinstance(text, str) and text for text in texts):
            raise RunError(f"{file}: {key} must be text" + (" or a list of texts" if key == "broker" else ""))
    for one, other in (("certificate", "key"), ("user", "password_file")):
        if (one in told) != (other in told):
            raise RunError(f"{file}: {one} and {other} belong together")
    if "certificate" not in told and "user" not in told:
        raise RunError(f"{file}: must have certificate and key, or user and password_file")
    return told


def _as_user(brokers: tuple[Address, ...], user: str) -> tuple[Address, ...]:
    return tuple(replace(address, username=user) for address in brokers)


def _private(folder: Path, name: str) -> Path:
    """Give the path of a secret; warn if others can read it."""
    path = folder / name
    if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("%s can be read by others: chmod 600 %s", path, path)
    return path


def _with_article(role: Role) -> str:
    return f"a{'n' if role[0] in 'aeiou' else ''} {role}"
