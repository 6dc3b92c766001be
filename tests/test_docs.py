"""What README, CONTRIBUTING and docs/ say of files, names, pages and commands is there."""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from broker.cli.commands import app
from scenarios.schema.scenario import Scenario

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = "broker|scenarios|edge_client|server_node|sim"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def code_of(text: str) -> Iterator[str]:
    """Give the fenced blocks and the words in backticks."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`]+)`", without_code(text))


def anchors_of(page: Path) -> set[str]:
    """Give the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text("utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# links


@each_page
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", without_code(page.read_text("utf-8"))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors_of(file), f"{page.name} links to {target}"


def test_headings_become_anchors_as_on_github(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Links, `sim/network/link.py`\n## Two words - 2\n```\n# no heading\n```\n")
    assert anchors_of(page) == {"links-simnetworklinkpy", "two-words---2"}


def test_every_page_can_be_reached_from_the_readme() -> None:
    linked = {
        target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", PAGES[0].read_text("utf-8"))
    }
    assert {f"docs/{page.name}" for page in PAGES[2:]} <= linked


# files and names


@each_page
def test_every_path_that_is_named_exists(page: Path) -> None:
    endings = "py|md|yaml|html|svg|png|json"
    pattern = rf"(?<![\w/.-])(?:{ROOMS}|tests|docs|benchmarks|scripts)/[\w/-]*(?:\.(?:{endings}))?"
    for path in re.findall(pattern, page.read_text("utf-8")):
        assert (ROOT / path).exists(), f"{page.name} names {path}"


def definitions(file: Path) -> set[str]:
    """Give the functions and classes of a module, and the methods as Class.method."""
    found = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            methods = (
                child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            )
            found |= {f"{node.name}.{method.name}" for method in methods}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@each_page
def test_every_function_that_is_named_with_its_file_is_there(page: Path) -> None:
    for path, name in re.findall(rf"((?:{ROOMS})/[\w/]+\.py):([\w.]+\w)", page.read_text("utf-8")):
        assert name in definitions(ROOT / path), f"{page.name} names {path}:{name}"


def is_scenario_key(name: str) -> bool:
    first, second = name.split(".")[:2]
    field = Scenario.model_fields.get(first)
    return field is not None and second in getattr(field.annotation, "model_fields", ())


@each_page
def test_every_module_and_name_in_it_that_is_named_is_there(page: Path) -> None:
    text = re.sub(r"\w+://\S+", "", "\n".join(code_of(page.read_text("utf-8"))))
    for name in re.findall(rf"(?<![\w./-])(?:{ROOMS})(?:\.[A-Za-z_]\w*)+", text):
        if not is_scenario_key(name):
            assert exists(name), f"{page.name} names {name}"


def exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = "/".join(parts[:length])
        if (ROOT / f"{path}.py").is_file() or (ROOT / path / "__init__.py").is_file():
            found: object = importlib.import_module(".".join(parts[:length]))
            for part in parts[length:]:
                found = getattr(found, part, None)
            return found is not None
    return False


# commands


def commands_in(text: str) -> Iterator[list[str]]:
    """Give the arguments of each command line that begins with fedlite, up to the end of the command."""
    for code in code_of(text):
        for start in re.finditer(r"(?:^|[\s=/])fedlite (?=[a-z])", code, flags=re.MULTILINE):
            lines = code[start.end() :].replace("\\\n", " ").splitlines()
            for count in range(1, len(lines) + 1):
                try:
                    words = shlex.split("\n".join(lines[:count]), comments=True)
                except ValueError:  # a quotation that goes on in the next line
                    continue
                yield words
                break


def leftover(command: Any, words: list[str]) -> list[str]:
    """Give the words of a command line that are no option, value or argument of a command."""
    context = command.context_class(command, info_name=command.name)
    try:
        _, left, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:  # noqa: BLE001 - typer does not export its errors
        return [str(error)]
    return list(left)


@each_page
def test_every_command_line_that_is_shown_parses(page: Path) -> None:
    for words in commands_in(page.read_text("utf-8")):
        shown = f"{page.name} shows fedlite {' '.join(words)}"
        command: Any = typer.main.get_command(app)
        rest = list(words)
        while hasattr(command, "commands"):
            assert rest, shown
            assert rest[0] in command.commands, shown
            _, command, rest = command.resolve_command(command.context_class(command), rest)
        assert not leftover(command, rest), shown


def test_the_pages_show_command_lines() -> None:
    shown = [words for page in PAGES for words in commands_in(page.read_text("utf-8"))]
    assert len(shown) > 60
    assert ["data", "fetch", "watch_exercises"] in shown


@pytest.mark.parametrize(
    "line", ["fedlite run quickstart --no-such-option", "fedlite fly", "fedlite run a b c"]
)
def test_a_command_line_that_does_not_parse_is_noticed(line: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"`{line}`\n")
    with pytest.raises(AssertionError, match=f"shows {line}"):
        test_every_command_line_that_is_shown_parses(page)
