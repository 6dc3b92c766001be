"""Finds scenarios and studies, by the name of a shipped one or by path."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from scenarios.errors import ScenarioError, nearest, suggestion

Kind = Literal["scenario", "study"]

_FOLDERS: dict[Kind, str] = {"scenario": ".", "study": "studies"}


def shipped(kind: Kind = "scenario") -> dict[str, Path]:
    """Give the file of each shipped scenario, or study, by its name, sorted."""
    folder = Path(str(files("scenarios.shipped"))) / _FOLDERS[kind]
    return dict(sorted((file.stem, file) for file in folder.glob("*.yaml")))


def question(file: Path) -> str:
    """Give the comment at the top of a scenario file, as one line: the question that it answers."""
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)


def locate(name_or_path: str, folder: Path, kind: Kind = "scenario") -> Path:
    """Find a scenario's or a study's file.

    Args:
        name_or_path: a path if it has a slash or ends in .yaml or .yml, else the name of a shipped one.
        folder: what a relative path is relative to.
        kind: of the file.

    Raises:
        ScenarioError: there is no such file, or none of that name.
    """
    known = shipped(kind)
    if "/" in name_or_path or Path(name_or_path).suffix in {".yaml", ".yml"}:
        path = folder / Path(name_or_path).expanduser()
        if path.is_file():
            return path
        raise ScenarioError(
            f"{'a folder, not a' if path.is_dir() else 'no such'} file: {path}{_near(path, kind)}"
        )
    if name_or_path not in known:
        near = suggestion(name_or_path, known, label="shipped")
        raise ScenarioError(f"unknown {kind} '{name_or_path}'{near}; or give the path of a .yaml file")
    return known[name_or_path]


def _near(path: Path, kind: Kind) -> str:
    """Give the end of a sentence about a file that is not there: a shipped one, or a file, that is near."""
    if path.stem in shipped(kind):
        return f"; the shipped {kind} is called {path.stem}, without {path.suffix or 'a folder'}"
    beside = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    if near:
        return f"; did you mean {path.with_name(near)}?"
    near = nearest(path.stem, shipped(kind))
    return f"; a shipped {kind} is called {near}" if near else ""
