"""`fedlite watch` without a browser: what it makes of what the broker says, and of nonsense."""

import asyncio
import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from broker.transports.base import Frame
from broker.transports.memory import MemoryBroker
from broker.wire import packing, topics
from broker.wire.messages import RunState
from server_node.board.pages import (
    ClientsPage,
    EventLine,
    EventsPage,
    Page,
    Slowest,
    encode,
)
from server_node.board.words import run_line
from sim.watch.command import _Lines
from sim.watch.follow import follow
from sim.watch.picture import Picture
from sim.watch.terminal import line_of, screen
from tests.watch.pages import client, run_page


def frame(name: str, page: Page | bytes) -> Frame:
    return Frame(topics.watch("r", name), page if isinstance(page, bytes) else encode(page), 1)


def state(phase: Any, reason: str = "") -> Frame:
    return Frame(topics.state("r"), packing.encode(RunState(phase, 1, 0, 3, 10, reason)), 1)


def picture_of(*frames: Frame) -> Picture:
    picture = Picture("r")
    picture.connected = True
    for each in frames:
        picture.take(each)
    return picture


def test_pages_are_put_together() -> None:
    picture = picture_of(
        state("running"),
        frame("run", run_page()),
        frame("clients/1", ClientsPage([client("b")])),
        frame("clients/0", ClientsPage([client("a")])),
    )
    assert [line.client for line in picture.fleet] == ["a", "b"]
    assert (picture.phase, picture.run) == ("running", run_page())


def test_what_is_cleared_is_forgotten() -> None:
    full = [state("running"), frame("run", run_page()), frame("clients/0", ClientsPage([client("a")]))]
    picture = picture_of(*full, *(Frame(each.topic, b"", 1) for each in full))
    assert (picture.state, picture.run, picture.fleet) == (None, None, [])


@given(
    st.sampled_from(
        ["run", "round", "history", "events", "clients/0", "clients/9999", "x", "", "clients/.."]
    ),
    st.binary(max_size=200) | st.sampled_from([encode(run_page()), b"null", b"[]", b"{}"]),
)
def test_nonsense_changes_nothing_that_is_known(name: str, content: bytes) -> None:
    picture = picture_of(
        state("running"), frame("run", run_page()), frame("clients/0", ClientsPage([client("a")]))
    )
    before = (picture.state, picture.run, picture.fleet)
    change = picture.take(frame(name, content))
    if change is None and content:
        assert (picture.state, picture.run, picture.fleet) == before
    assert picture.take(Frame("fl/3/other/watch/run", content, 1)) is None
    assert picture.take(Frame("fl/3/r/state", b"\xff" + content, 1)) is None


def test_a_line_says_how_the_run_gets_on() -> None:
    page = run_page(metric=0.8731, slowest=Slowest("c07", 1000.0, "computing"), rejected=2)
    assert run_line(page, 1003.14) == (
        "round 3 of 10  loss 0.500  accuracy 0.873  2 of 3 online  up 3.0 kB, down 4.0 kB  2 refused  "
        "slowest c07: 3.1 s, computing"
    )
    assert "slowest" not in run_line(page, 1000.5)
    assert run_line(run_page(phase="gathering"), 0) == "gathering: 2 of 3 online"
    assert run_line(run_page(phase="finished", reason="complete"), 0).startswith(
        "finished: complete  round 3"
    )


def test_a_line_says_what_is_missing() -> None:
    picture = Picture("r")
    assert line_of(picture) == "no connection to the broker"
    picture.connected = True
    assert line_of(picture) == "the broker knows nothing of run r; waiting for its server"
    picture.take(state("running"))
    assert line_of(picture) == "r: running, round 3 of 10; its server has published no more than that"
    picture.take(frame("run", run_page()))
    assert line_of(picture).startswith("round 3 of 10")
    picture.take(state("away"))
    assert line_of(picture).startswith("its server is away  round 3")


def test_the_terminal_shows_who_is_lost_first_and_fits_its_height() -> None:
    fleet = [client(f"c{number:02d}", status="offline" if number == 11 else "idle") for number in range(12)]
    hostile = EventLine(1.0, "lost", "c11", "[red]\N{BULLET} has gone")
    picture = picture_of(
        state("running"), frame("run", run_page()), frame("clients/0", ClientsPage(fleet)),
        frame("events", EventsPage([hostile])),
    )  # fmt: skip
    console = Console(file=io.StringIO(), width=120, height=20)
    console.print(screen(picture, console.height))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.index("c11") < text.index("c00")
    assert "and 4 more" in text
    assert "[red]" in text  # it is no markup
    assert len(text.splitlines()) <= 20


def test_lines_tell_each_event_once_and_how_the_run_gets_on_every_ten_seconds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    picture = picture_of(state("running"), frame("run", run_page()))
    lines = _Lines(picture)
    events = [EventLine(float(number), "lost", f"c{number}", "has gone") for number in range(3)]
    for second in range(12):
        picture.take(frame("events", EventsPage(events[: second + 1])))
        lines.look(float(second))
    said = capsys.readouterr().out
    assert [said.count(f"c{number} has gone") for number in range(3)] == [1, 1, 1]
    assert said.count("round 3 of 10") == 2


async def test_it_follows_a_run_to_its_end() -> None:
    broker, picture, heard = MemoryBroker(), Picture("r"), list[str]()
    broker.publish(topics.state("r"), packing.encode(RunState("running", 1)), retain=True)
    following = asyncio.create_task(
        follow(broker.transport, picture, asyncio.Event(), hear=lambda name, _page: heard.append(name))
    )
    await asyncio.sleep(0.01)
    for each in (frame("run", run_page()), state("finished", "complete"), frame("clients/0", b"junk")):
        broker.publish(each.topic, each.payload, retain=True)
    await asyncio.sleep(0.01)
    assert not following.done()  # the last pages are still to come
    last = frame("run", run_page(phase="finished", reason="complete"))
    broker.publish(last.topic, last.payload, retain=True)
    assert await asyncio.wait_for(following, 1) == "complete"
    assert heard == ["state", "run", "state", "run"]


async def test_it_can_be_left_and_goes_on_after_the_end_if_asked_to() -> None:
    broker, stop = MemoryBroker(), asyncio.Event()
    broker.publish(topics.state("r"), packing.encode(RunState("finished", 1, reason="complete")), retain=True)
    following = asyncio.create_task(follow(broker.transport, Picture("r"), stop, ends=False))
    await asyncio.sleep(0.05)
    assert not following.done()
    stop.set()
    assert await asyncio.wait_for(following, 1) == "stopped"
