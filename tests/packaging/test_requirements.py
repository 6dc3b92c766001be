"""What pip is told to install: little on a device, and CUDA on no device."""

import re
import tomllib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from importlib.metadata import distribution
from pathlib import Path
from typing import cast

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from broker.cli.commands import COMMANDS

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"]
FIRST_WITH_CUDA = Version("2.11.0")  # of torch's builds for aarch64 Linux on PyPI


def machine(system: str, processor: str) -> dict[str, str | AbstractSet[str]]:
    here = cast("dict[str, str | AbstractSet[str]]", default_environment())
    return here | {"sys_platform": system, "platform_machine": processor}


def of_torch(system: str, processor: str) -> list[Requirement]:
    every = [Requirement(line) for line in PROJECT["dependencies"]]
    return [
        one
        for one in every
        if one.name == "torch" and (one.marker is None or one.marker.evaluate(machine(system, processor)))
    ]


@pytest.mark.parametrize(
    ("system", "processor"),
    [
        ("linux", "aarch64"),
        ("linux", "x86_64"),
        ("darwin", "arm64"),
        ("darwin", "x86_64"),
        ("win32", "AMD64"),
    ],
)
def test_each_machine_has_one_range_of_torch(system: str, processor: str) -> None:
    [torch] = of_torch(system, processor)
    assert torch.specifier.contains("2.10.0")
    assert not torch.specifier.contains("3.0.0")


def test_a_device_gets_no_torch_that_requires_cuda() -> None:
    [torch] = of_torch("linux", "aarch64")
    assert not torch.specifier.contains(FIRST_WITH_CUDA)
    assert not torch.specifier.contains("2.15.0")


def test_other_machines_may_take_a_new_torch() -> None:
    assert [one.specifier.contains("2.15.0") for one in of_torch("linux", "x86_64")] == [True]


def closure(requirements: Iterable[str]) -> set[str]:
    """Give the names of all distributions that these requirements bring to this machine."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        one, extra_of_parent = waiting.pop()
        if one.marker and not one.marker.evaluate({"extra": extra_of_parent}):
            continue
        for extra in ("", *one.extras):
            asked = (canonicalize_name(one.name), extra)
            if asked not in found:
                found.add(asked)
                waiting += [(Requirement(line), extra) for line in distribution(one.name).requires or ()]
    return {name for name, _ in found}


def packages_of(extra: str) -> list[str]:
    """Give the requirements of an extra, in place of other extras that it names what these have."""
    found: list[str] = []
    for line in PROJECT["optional-dependencies"][extra]:
        one = Requirement(line)
        inner = [part for name in one.extras for part in packages_of(name)]
        found += inner if one.name == PROJECT["name"] else [line]
    return found


def test_a_device_gets_little_besides_torch_and_numpy() -> None:
    ours = closure(PROJECT["dependencies"]) - closure(["torch", "numpy"])
    assert len(ours) < 29  # and this package
    size = sum(
        file.stat().st_size
        for name in ours
        for path in distribution(name).files or ()
        if (file := Path(str(path.locate()))).is_file()
    )
    assert size < 60e6


def test_every_extra_is_a_list_of_what_is_no_dependency_already() -> None:
    names = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    for lines in PROJECT["optional-dependencies"].values():
        assert names & {canonicalize_name(Requirement(line).name) for line in lines} == set()


def test_all_has_what_each_command_needs() -> None:
    [line] = PROJECT["optional-dependencies"]["all"]
    named = {command.extra for command in COMMANDS.values()} - {""}
    assert set(re.findall(r"\w+", line.partition("[")[2])) >= named
