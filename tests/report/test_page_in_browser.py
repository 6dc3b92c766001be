"""The page in a real browser: nothing is clipped, in light, dark, on paper and on a phone."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sim.report.page import write_report
from sim.simulation.run import simulate
from tests.helpers import small_scenario
from tests.report.test_report import made_sweep

FLEET = "fleet=[{count: 3, link: wifi}, {count: 1, device: raspberry-pi-zero-2w, link: 2g}]"

CLIPPED = """
const clipped = [];
for (const svg of document.querySelectorAll('svg.chart')) {
  const box = svg.getBoundingClientRect();
  if (box.width < 250) clipped.push('narrow chart');
  for (const text of svg.querySelectorAll('text')) {
    const own = text.getBoundingClientRect();
    const wide = own.left < box.left - 1 || own.right > box.right + 1;
    if (wide || own.top < box.top - 1 || own.bottom > box.bottom + 1)
      clipped.push(text.textContent);
    if (own.height < 7) clipped.push('too small: ' + text.textContent);
  }
}
return clipped;
"""

OVERLAPS = """
const found = [];
for (const axis of document.querySelectorAll('svg.chart')) {
  const texts = [...axis.querySelectorAll('text')];
  const boxes = texts.map(text => [text.textContent, text.getBoundingClientRect()]);
  for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
    const [a, b] = [boxes[i][1], boxes[j][1]];
    const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (wide > 2 && high > 4) found.push(boxes[i][0] + ' / ' + boxes[j][0]);
  }
}
return found;
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a page of a sweep and a run with stragglers."""
    folder = tmp_path_factory.mktemp("page")
    simulate(small_scenario(folder, "training.rounds=6", "training.evaluate_every=2", FLEET), folder / "run")
    [file] = write_report([folder / "run", made_sweep(folder / "grid")], folder / "report.html")
    return file


def look(browser: Any, page: Path, width: int, scheme: str, media: str = "screen") -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(page.as_uri())


@pytest.mark.parametrize("width", [390, 1100])
def test_no_label_is_clipped_or_covered(browser: Any, page: Path, width: int) -> None:
    look(browser, page, width, "light")
    assert browser.execute_script(CLIPPED) == []
    assert browser.execute_script(OVERLAPS) == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


COLOURS = """
const seen = element => getComputedStyle(element);
return [seen(document.body).backgroundColor, seen(document.querySelector('svg.chart text')).fill];
"""


@pytest.mark.parametrize(
    ("scheme", "media", "dark"),
    [("light", "screen", False), ("dark", "screen", True), ("dark", "print", False)],
)
def test_charts_follow_light_dark_and_paper(
    browser: Any, page: Path, scheme: str, media: str, dark: bool
) -> None:
    look(browser, page, 1100, scheme, media)
    paper, ink = (
        sum(map(int, colour.strip("rgba()").split(",")[:3])) / 765
        for colour in browser.execute_script(COLOURS)
    )
    assert (paper < 0.2) is dark
    assert (ink > 0.8) is dark


def test_it_prints(browser: Any, page: Path) -> None:
    look(browser, page, 1100, "dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {})["data"])
    assert pdf.startswith(b"%PDF")
    assert 2 <= pdf.count(b"/Type /Page\n") <= 8


def test_values_appear_under_the_pointer(browser: Any, page: Path) -> None:
    look(browser, page, 1100, "light")
    titles = browser.execute_script(
        "return [...document.querySelectorAll('svg.chart title')].map(title => title.textContent)"
    )
    assert any(title.endswith("fewer") for title in titles), json.dumps(titles[:20])
    assert any("nb-iot" in title or "2g" in title for title in titles)
