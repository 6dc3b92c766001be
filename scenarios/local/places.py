"""Where the data of a client are on its device, and whether they have changed."""

import json
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

from scenarios.errors import ScenarioError

KEY = "task.data"
MAX_TOLD = 5


def data_setting(path: Path | None) -> list[str]:
    """Give what --data PATH means as a setting; none without a path."""
    return [] if path is None else [f"{KEY}={json.dumps(str(path.absolute()))}"]


def place_of(root: Path, client: str, *, alone: bool, fleet: Sequence[str]) -> Path:
    """Give the folder or file with a client's data: ROOT/CLIENT, or ROOT itself.

    ROOT itself is meant if only one client lives here, and no client of the fleet has a folder there.

    Args:
        root: what --data or task.data names.
        client: its name.
        alone: it is the only client of this process.
        fleet: names of all clients.

    Raises:
        ScenarioError: nothing is there.
    """
    if not root.exists():
        raise ScenarioError(f"no such file or folder: {root}", key=KEY)
    own = root / client
    if own.exists():
        return own
    if alone and not any((root / name).is_dir() for name in fleet):
        return root
    there = sorted(entry.name for entry in root.iterdir() if entry.is_dir()) if root.is_dir() else []
    told = ", ".join([*there[:MAX_TOLD], *(["..."] if len(there) > MAX_TOLD else [])]) or "no folder"
    raise ScenarioError(
        f"no folder {client} in {root}, which has {told}: with several clients' data each needs a folder of "
        "its name",
        key=KEY,
    )


def files_of(place: Path, suffixes: Sequence[str]) -> Iterator[Path]:
    """Give the file itself, or those of a folder with some endings (lower case), by name; no hidden ones.

    Raises:
        ScenarioError: there is no such place.
    """
    if not place.exists():
        raise ScenarioError(f"no such file or folder: {place}", key=KEY)
    if place.is_file():
        yield place
        return
    for file in sorted(place.iterdir()):
        if file.suffix.lower() in suffixes and file.is_file() and not file.name.startswith("."):
            yield file


def state_of(place: Path) -> bytes:
    """Give a digest of names, sizes and times of all files at a place: another one when data have changed."""
    digest = blake2b(digest_size=16)
    for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
        try:
            stat = file.stat()
        except OSError:  # it is just being replaced
            continue
        if file.is_file():
            digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape"))
    return digest.digest()
