"""scripts/mutate finds the tests that own a module in pyproject.toml."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
OWNERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutation"]["owners"]


def test_owners_and_what_they_own_exist() -> None:
    named = {*OWNERS, *(test for tests in OWNERS.values() for test in tests)}
    assert {name for name in named if not (ROOT / name).exists()} == set()
