"""A bundle's archive is read with care: nothing in it reaches another place or fills the memory."""

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import RunError
from broker.installing.archive import MAX_BYTES, MAX_FILE_BYTES, MAX_FILES, read_files

FILES = {"edge.yaml": b"fleet: home\n", "ca.crt": b"x" * 3000, "tasks/own.py": b""}


def archive(path: Path, *entries: tuple[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as output:
        for name, content in entries:
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                output.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            output.addfile(entry, io.BytesIO(content))
    return path


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo()
    entry.type, entry.linkname = kind, target
    return entry


def test_a_folder_and_its_archive_are_read_alike(tmp_path: Path) -> None:
    folder = tmp_path / "pi-07"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with tarfile.open(tmp_path / "pi-07.tar.gz", "w:gz") as output:
        output.add(folder, "pi-07")
    assert read_files(folder) == read_files(tmp_path / "pi-07.tar.gz") == FILES


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x", "b/../../x", "b/./..", "b//../x", "b/\nx", "b/ü", "b/.hidden", "b/" + "x" * 101,
     "b/a/b/c/d", "b/-rf", "b/x y", "b/"],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    file = archive(tmp_path / "x.tar.gz", ("b/edge.yaml", b"ok"), (name, b"evil"))
    with pytest.raises(RunError):
        read_files(file)


@pytest.mark.parametrize(
    "entry",
    [
        special(tarfile.SYMTYPE, "/etc/shadow"),
        special(tarfile.LNKTYPE, "b/edge.yaml"),
        special(tarfile.CHRTYPE),
        special(tarfile.BLKTYPE),
        special(tarfile.FIFOTYPE),
    ],
    ids=["symbolic link", "hard link", "character device", "block device", "pipe"],
)
def test_only_files_and_folders_are_taken(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    file = archive(tmp_path / "x.tar.gz", ("b/edge.yaml", b"ok"), ("b/key", entry))
    with pytest.raises(RunError, match="is no regular file"):
        read_files(file)


def test_a_link_in_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    folder.mkdir()
    (folder / "edge.yaml").write_text("ok")
    (folder / "key").symlink_to("/etc/hostname")
    with pytest.raises(RunError, match="is no regular file"):
        read_files(folder)


def test_too_many_too_large_and_too_much(tmp_path: Path) -> None:
    many = archive(tmp_path / "a.tar.gz", *((f"b/f{number}", b"") for number in range(MAX_FILES + 1)))
    with pytest.raises(RunError, match=f"more than {MAX_FILES} files"):
        read_files(many)
    large = archive(tmp_path / "b.tar.gz", ("b/f", bytes(MAX_FILE_BYTES + 1)))
    with pytest.raises(RunError, match="too large"):
        read_files(large)
    pieces = MAX_BYTES // MAX_FILE_BYTES + 1
    much = archive(
        tmp_path / "c.tar.gz", *((f"b/f{number}", bytes(MAX_FILE_BYTES)) for number in range(pieces))
    )
    with pytest.raises(RunError, match=r"too large|larger than a bundle"):
        read_files(much)


def test_a_header_that_claims_more_than_there_is_costs_nothing(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("b/f")
    entry.size = 2**33
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as output:
        output.fileobj.write(entry.tobuf())
    file = tmp_path / "x.tar.gz"
    file.write_bytes(raw.getvalue())
    with pytest.raises(RunError, match="too large"):
        read_files(file)


def test_a_long_name_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.tar.gz"
    with tarfile.open(file, "w:gz", format=tarfile.PAX_FORMAT) as output:
        entry = tarfile.TarInfo("b/f")
        entry.pax_headers = {"comment": "x" * (MAX_BYTES + 2**20)}
        output.addfile(entry)
    with pytest.raises(RunError, match="larger than a bundle"):
        read_files(file)


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ([("a/f", b""), ("b/f", b"")], "one folder"),
        ([("edge.yaml", b"")], "must lie in a folder"),
        ([("a/f", b"1"), ("a/f", b"2")], "two files of one name"),
        ([], "is empty"),
    ],
)
def test_what_is_no_bundle_is_told(tmp_path: Path, entries: list[tuple[str, bytes]], told: str) -> None:
    with pytest.raises(RunError, match=told):
        read_files(archive(tmp_path / "x.tar.gz", *entries))


def test_what_is_not_there_or_no_archive_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no .*fedlite fleet"):
        read_files(tmp_path / "nothing.tar.gz")
    file = tmp_path / "x.tar.gz"
    file.write_text("no archive")
    with pytest.raises(RunError, match=r"not a \.tar\.gz"):
        read_files(file)


@given(st.binary(max_size=400), st.integers(0, 2000), st.data())
def test_damaged_archives_are_read_or_refused(noise: bytes, place: int, data: st.DataObject) -> None:
    folder = Path(os.environ.get("PYTEST_TMP", "/tmp")) / f"fedlite-archive-{os.getpid()}"
    folder.mkdir(exist_ok=True)
    file = archive(folder / "x.tar.gz", *((f"b/{name}", content) for name, content in FILES.items()))
    whole = bytearray(file.read_bytes())
    place %= len(whole)
    if data.draw(st.booleans()):
        whole[place : place + len(noise)] = noise
    else:
        del whole[place:]
    file.write_bytes(whole)
    try:
        found = read_files(file)
    except RunError:
        return
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in found)
