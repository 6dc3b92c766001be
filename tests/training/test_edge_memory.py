"""A device with too little memory is refused before torch is imported."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client import memory
from edge_client.memory import LEAST_BYTES, MemoryLimitError, check_memory
from edge_client.service import check
from edge_client.service.findings import failed

MIB = 2**20
NONE: Mapping[str, object] = MappingProxyType({})


def machine(
    root: Path,
    total_bytes: int = 8 * 2**30,
    groups: str = "0::/",
    limits: Mapping[str, object] = NONE,
) -> Path:
    """Make what Linux says of a machine's memory, below a folder; limits by their file in /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: {total_bytes // 1024} kB\nMemFree: 10 kB\n")
    (root / "proc/self/cgroup").write_text(groups)
    for name, limit in limits.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{limit}\n")
    return root


@pytest.fixture(autouse=True)
def _no_limits_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_RLIMITS", {})


def test_a_board_with_512_mb_is_enough(tmp_path: Path) -> None:
    check_memory(machine(tmp_path, 426 * MIB))


def test_a_board_with_less_than_256_mib_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError) as caught:
        check_memory(machine(tmp_path, 240 * MIB))
    assert str(caught.value) == (
        "an edge needs 256 MiB of memory or more, and here are 240 (MemTotal of /proc/meminfo): "
        "raise the limit, or take a device with 512 MB"
    )


@pytest.mark.parametrize(
    ("groups", "limits", "whose"),
    [
        ("0::/a/b\n", {"a/b/memory.max": 100 * MIB}, "/sys/fs/cgroup/a/b/memory.max"),
        ("0::/a/b\n", {"a/memory.max": 100 * MIB, "a/b/memory.max": "max"}, "/a/memory.max"),
        ("0::/\n", {"memory.max": 100 * MIB}, "/sys/fs/cgroup/memory.max"),
        ("3:cpu:/\n9:memory,x:/d\n", {"memory/d/memory.limit_in_bytes": 100 * MIB}, "/d/memory.limit"),
        ("9:memory:/lost\n", {"memory/memory.limit_in_bytes": 100 * MIB}, "/memory/memory.limit"),
    ],
)
def test_the_limit_of_a_control_group_or_of_one_above_it_counts(
    tmp_path: Path, groups: str, limits: dict[str, object], whose: str
) -> None:
    with pytest.raises(MemoryLimitError, match=r"here are 100 \(") as caught:
        check_memory(machine(tmp_path, groups=groups, limits=limits))
    assert whose in str(caught.value)


@given(limits=st.lists(st.integers(1, 2**63), min_size=4, max_size=4))
def test_the_smallest_limit_decides(limits: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    total, *groups = limits
    names = ("memory.max", "a/memory.max", "a/b/memory.max")
    root = machine(
        tmp_path_factory.mktemp("machine"), total, "0::/a/b\n",
        dict(zip(names, groups, strict=True)),
    )  # fmt: skip
    if min(total // 1024 * 1024, *groups) < LEAST_BYTES:
        with pytest.raises(MemoryLimitError) as caught:
            check_memory(root)
        assert check.check_memory(root) == failed("memory", str(caught.value))  # `edge check` says so, too
    else:
        check_memory(root)
        assert check.check_memory(root).text.startswith(f"{total // 1024 // 1024} MiB")


def test_no_limit_is_known_on_another_system(tmp_path: Path) -> None:
    check_memory(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS does not hold elsewhere")
def test_the_edge_is_refused_before_torch_is_imported() -> None:
    code = (
        "import resource, sys; import broker.cli.commands\n"
        "resource.setrlimit(resource.RLIMIT_AS, (200 << 20, resource.RLIM_INFINITY))\n"
        "try: broker.cli.commands.app(['edge', '--broker=mqtt://127.0.0.1:1', '--run=r', '--client=c'])\n"
        "finally: assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert "here are 200 (ulimit of the address space)" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
