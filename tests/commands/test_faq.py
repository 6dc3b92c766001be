"""docs/faq.md: each mistake is made, and the page has what is said then, word for word."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from broker.cli.commands import app

PAGE = Path(__file__).parents[2] / "docs" / "faq.md"
SCENARIO = """\
name: mine
task: {name: digits28, partition: iid}
training: {rounds: 4, cohort: 3, head_lr: 0.1}
flows: {activations_up: {codec: pq, subvectors: 1152, centroids: 2}}
fleet: [{count: 5}]
"""
MODULE = (Path(__file__).parents[1] / "small_task.py").read_text("utf-8")
OWN = SCENARIO.replace("name: digits28", "name: corners, module: mine.py").replace("1152", "4")


class Mistake(NamedTuple):
    """What somebody does.

    Attributes:
        scenario: the content of mine.yaml.
        words: of the command.
        module: the content of mine.py; empty: there is none.
        before: commands that were given before, and went well.
    """

    scenario: str = SCENARIO
    words: tuple[str, ...] = ("scenarios", "validate", "mine.yaml")
    module: str = ""
    before: tuple[tuple[str, ...], ...] = ()


def with_(old: str, new: str, *, of: str = SCENARIO) -> str:
    assert old in of, old
    return of.replace(old, new)


MISTAKES = {
    "A key has another name here": Mistake(with_("head_lr", "learning_rate")),
    "A rate has its unit in the value": Mistake(
        with_("count: 5", "count: 5, link: {uplink_kbps: 1Mbit, downlink_kbps: 1000, latency_ms: 20}")
    ),
    "A rate has its unit in the key": Mistake(
        with_("count: 5", "count: 5, link: {uplink_mbps: 1, downlink_kbps: 1000, latency_ms: 20}")
    ),
    "A codec is asked for its bits": Mistake(
        with_("{codec: pq, subvectors: 1152, centroids: 2}", "{codec: int8, bits: 4}")
    ),
    "Sub-vectors do not divide the cut": Mistake(with_("1152", "1000")),
    "The cohort is larger than the fleet": Mistake(with_("cohort: 3", "cohort: 50")),
    "A straggler policy has a key of its own": Mistake(
        SCENARIO + "stragglers: {policy: deadline, deadline: 4}\n"
    ),
    "There are tabs in the file": Mistake(with_("{count: 5}", "{count:\t5}")),
    "The file is empty": Mistake(""),
    "A task has another name": Mistake(with_("digits28", "digit28")),
    "A shipped scenario has another name": Mistake(words=("simulate", "quick-start")),
    "The data have no owners": Mistake(with_("iid", "natural")),
    "There are more clients than samples": Mistake(
        with_("count: 5", "count: 6000"), ("simulate", "mine.yaml")
    ),
    "A task's data are not here": Mistake(
        with_("digits28", "shakespeare").replace("1152", "960"), ("run", "mine.yaml")
    ),
    "The file of the task is not there": Mistake(OWN),
    "Labels begin with 1": Mistake(OWN, module=with_("), targets)", "), targets + 1)", of=MODULE)),
    "The loss is a mean": Mistake(OWN, module=with_(', reduction="none"', "", of=MODULE)),
    "The head gives another size": Mistake(
        OWN, module=with_("cut_shape=(16,)", "cut_shape=(12,)", of=MODULE)
    ),
    "The run folder has another run": Mistake(
        OWN,
        ("simulate", "mine.yaml", "--out=run", "--set=seed=1"),
        MODULE,
        before=(("simulate", "mine.yaml", "--out=run"),),
    ),
    "A device's data are in no folder of its name": Mistake(
        with_("iid", "local, data: shares").replace("{count: 5}", "{names: [kitchen, garden, cellar]}"),
        before=(("data", "export", "digits28", "--to=shares"),),
    ),
    "The broker's address has no scheme": Mistake(words=("server", "mine.yaml", "--broker=pi.example:1883")),
}


def said_on_page() -> dict[str, str]:
    """Give what the page says below each heading; where its lines end has no meaning."""
    parts = re.split(r"^## (.*)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {}
    for heading, body in zip(parts[::2], parts[1::2], strict=True):
        blocks = re.findall(r"^```text\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL)
        found[heading] = " ".join(blocks[-1].split()) if blocks else ""
    return found


def test_the_page_has_each_mistake_and_no_other() -> None:
    assert list(said_on_page()) == list(MISTAKES)


@pytest.mark.parametrize("heading", MISTAKES)
def test_the_page_has_what_is_said(
    heading: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    assert not cache.exists()
    monkeypatch.chdir(tmp_path)
    mistake = MISTAKES[heading]
    Path("mine.yaml").write_text(mistake.scenario, "utf-8")
    if mistake.module:
        Path("mine.py").write_text(mistake.module, "utf-8")
    for words in mistake.before:
        assert CliRunner().invoke(app, list(words)).exit_code == 0
    told = CliRunner().invoke(app, list(mistake.words))
    assert told.exit_code == 2, told.output
    said, on_page = on_any_machine(told.output, tmp_path), said_on_page()[heading]
    if on_page.endswith(" ..."):
        assert said.startswith(on_page.removesuffix("..."))
    else:
        assert said == on_page


def on_any_machine(output: str, folder: Path) -> str:
    """Write a message as it is in another folder."""
    cache = f"{folder.resolve()}/cache"
    return " ".join(output.replace(cache, "~/.cache/fedlite").replace(f"{folder.resolve()}/", "").split())
