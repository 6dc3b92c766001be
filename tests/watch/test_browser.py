"""The page in a real browser (Chromium without a window)."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.wire.messages import RunState
from server_node.board.pages import (
    ClientsPage,
    EventLine,
    EventsPage,
    HistoryPage,
    Member,
    RoundPage,
    Slowest,
)
from sim.watch.page import content_of, serving_page
from sim.watch.picture import Picture
from tests.watch.pages import client, run_page

WIDTHS = (390, 1400)
HOSTILE = "<img src=x onerror=hacked=1>"  # fits into a name of 32
WAIT_S = 15.0
LAYOUT = (Path(__file__).parent / "layout.js").read_text("utf-8")


class Page:
    """The page of a picture in a browser."""

    def __init__(self, browser: Any, url: str, look: Callable[[float], None]) -> None:
        self.browser, self.url, self.look = browser, url, look

    def run(self, script: str) -> Any:
        return self.browser.execute_script(f"return {script}")

    def has(self, expected: Callable[[str], bool]) -> str:
        """Wait until the page's text is as expected; nobody loads it again."""
        give_up_s = time.monotonic() + WAIT_S
        while not expected(text := self.run("document.body.innerText")):
            assert time.monotonic() < give_up_s, text
            time.sleep(0.05)
        return str(text)

    def resize(self, width: int, scheme: str = "light") -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def complaints(self) -> list[Any]:
        return list(self.browser.get_log("browser"))


@contextmanager
def opened(browser: Any, picture: Picture) -> Iterator[Page]:
    with serving_page(picture, 0) as (url, look):
        page = Page(browser, url, look)
        page.complaints()  # of an earlier test
        browser.get(url)
        page.has(lambda text: picture.name in text)
        yield page
        assert page.complaints() == []
        browser.get("about:blank")


def picture_of(clients: int = 6) -> Picture:
    picture, now = Picture("orchard"), time.time()
    picture.connected = True
    picture.state = RunState("running", 1, 0, 3, 10)
    picture.run = run_page(
        run="orchard", metric=0.8731, best=0.9, slowest=Slowest("c001", now - 5, "computing")
    )
    names = [f"c{number:03d}" for number in range(clients)]
    members = [Member(name, 3, 1, "client", [0.0, 0.8, 1.1]) for name in names[:4]]
    picture.round = RoundPage(3, now - 2, 3, members, max(0, clients - 4))
    picture.history = HistoryPage(
        [(number, 0.08 * number) for number in range(1, 10)],
        [(number, 1.5 * number, 10_000 * number, 70_000 * number) for number in range(1, 30)],
    )
    picture.events = EventsPage([EventLine(now - 60, "joined", "c001", "is here with 400 samples")])
    lines = [client(name, seen=int(now) - 30) for name in names]
    picture.clients = {n // 12: ClientsPage(lines[n : n + 12]) for n in range(0, clients, 12)}
    return picture


TEXTS = (
    *("running", "0.873", "0.900", "2 of 3", "raspberry-pi-4", "lte", "400", "250 ms", "3.0 kB", "4.0 kB"),
    *("c001 is here with 400 samples", "Round 3 under way", "device's turn"),
)


def test_it_shows_the_run_and_updates_by_itself(browser: Any) -> None:
    picture = picture_of()
    with opened(browser, picture) as page:
        page.resize(1400)
        text = page.has(lambda text: "3 of 10" in text and "c005" in text)
        for expected in TEXTS:
            assert expected in text, expected
        assert page.run("document.title") == "orchard - fedlite watch"
        assert page.run("document.querySelectorAll('#timeline .lane').length") == 4
        assert page.run("document.querySelectorAll('#timeline rect').length") == 12
        assert page.run("document.querySelectorAll('#bytes polyline').length") == 2
        assert (
            page.run("document.querySelector('#metric polyline').getAttribute('points').split(' ').length")
            == 9
        )
        assert "c001, " in text
        assert "computing" in text
        assert picture.run is not None
        picture.run = msgspec.structs.replace(picture.run, round=4, metric=0.95)
        page.look(1.0)
        page.has(lambda text: "4 of 10" in text and "0.950" in text)


def test_a_client_that_goes_offline_is_seen(browser: Any) -> None:
    picture = picture_of()
    with opened(browser, picture) as page:
        page.resize(1400)
        page.has(lambda text: "c005" in text)
        lines = picture.clients[0].clients
        picture.clients[0] = ClientsPage([*lines[:5], client("c005", status="offline")])
        picture.events = EventsPage([EventLine(time.time(), "lost", "c005", "has gone")])
        page.look(1.0)
        page.has(lambda text: "c005 has gone" in text)
        first = "document.querySelector('#fleet tbody tr')"
        assert page.run(f"{first}.cells[0].textContent") == "c005"
        assert page.run(f"{first}.cells[1].className") == "offline"
        page.run("document.getElementById('status').value = 'offline', 0")
        page.run("document.getElementById('status').dispatchEvent(new Event('change'))")
        assert page.run("document.querySelectorAll('#fleet tbody tr').length") == 1


def test_a_server_that_is_away_a_broker_that_is_lost_and_a_run_that_is_not_there_are_told(
    browser: Any,
) -> None:
    picture = picture_of()
    with opened(browser, picture) as page:
        page.has(lambda text: "running" in text)
        picture.state = RunState("away", 1, 0, 3, 10)
        page.look(1.0)
        page.has(lambda text: "away" in text and "The server has lost its connection, or has died" in text)
        picture.connected = False
        page.look(2.0)
        page.has(lambda text: "not connected" in text and "No connection to the broker" in text)
        picture.forget()
        picture.connected = True
        page.look(3.0)
        page.has(lambda text: "no such run yet" in text)


def test_a_watch_that_has_ended_is_told(browser: Any) -> None:
    with serving_page(picture_of(), 0) as (url, look):
        page = Page(browser, url, look)
        browser.get(url)
        page.has(lambda text: "running" in text)
    page.has(lambda text: "fedlite watch does not answer; what is shown is old." in text)
    browser.get("about:blank")
    page.complaints()


def test_what_strangers_say_stays_text(browser: Any) -> None:
    picture, now = picture_of(), time.time()
    picture.clients = {0: ClientsPage([client(HOSTILE, device="<script>hacked=1", link="'\"><b onclick=x>")])}
    picture.events = EventsPage([EventLine(now, "refused", HOSTILE, "<svg/onload=hacked=1><iframe src=//x>")])
    picture.round = RoundPage(3, now, 3, [Member(HOSTILE, 3, 0, "client", [0.0])], 0)
    assert picture.run is not None
    picture.run = msgspec.structs.replace(
        picture.run,
        metric_name="<i>hacked</i>",
        reason="<a href=javascript:x>",
        slowest=Slowest(HOSTILE, 0.0, "offline"),
    )
    with opened(browser, picture) as page:
        text = page.has(lambda text: HOSTILE in text)
        assert text.count(HOSTILE) >= 4
        for said in (
            "<script>hacked=1",
            "'\"><b onclick=x>",
            "<svg/onload=hacked=1>",
            "<i>hacked</i>",
            "<a href=",
        ):
            assert said in text, said
        assert (
            page.run(
                "document.querySelectorAll('main img, main script, main iframe, main b, main i, a').length"
            )
            == 0
        )
        assert page.run("typeof hacked") == "undefined"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits_phones_and_screens_by_day_and_by_night(browser: Any, width: int, scheme: str) -> None:
    picture = picture_of(30)
    long = client("n" * 32, status="offline", device="d" * 24, link="l" * 24, batches=10**9, refused=10**6)
    picture.clients[0] = ClientsPage([long, *picture.clients[0].clients[1:]])
    picture.events = EventsPage([EventLine(time.time(), "refused", "n" * 32, "w" * 80)])
    assert picture.round is not None
    picture.round = RoundPage(3, time.time(), 3, [Member("n" * 32, 2, 1, "client", [-3.0, 1.0, 2.0])], 5)
    with opened(browser, picture) as page:
        page.resize(width, scheme)
        page.has(lambda text: "n" * 32 in text)
        time.sleep(0.2)  # the page draws its charts anew
        assert page.run("document.documentElement.scrollWidth") <= width
        for trouble in ("clipped", "outside", "faint"):
            assert page.run(f"(() => {{ {LAYOUT}; return {trouble}(); }})()") == [], trouble
        is_dark = page.run("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
        assert is_dark == (scheme == "dark")


def test_a_fleet_of_five_hundred_stays_usable(browser: Any) -> None:
    picture = picture_of(500)
    with opened(browser, picture) as page:
        page.resize(390)
        page.has(lambda text: "500 of 500 shown" in text)
        content = content_of(picture).decode()
        draw = f"(() => {{ const from = performance.now(); stream.onmessage({{data: {json.dumps(content)}}});"
        took_ms = min(
            page.run(f"{draw} document.body.offsetHeight; return performance.now() - from; }})()")
            for _ in range(5)
        )
        assert took_ms < 300, "drawing takes a good part of the second from one update to the next"
        assert page.run("document.documentElement.scrollHeight") < 6000  # the list scrolls, not the page
        find = "document.getElementById('find')"
        page.run(f"{find}.value = 'c49', 0")
        page.run(f"{find}.dispatchEvent(new Event('input'))")
        assert page.run("document.querySelectorAll('#fleet tbody tr').length") == 10
