"""The server of the page: what it answers, to whom, and with which headers."""

import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from broker.errors import RunError
from sim.watch import page as page_module
from sim.watch.page import HOST, MAX_CONNECTIONS, serving_page
from sim.watch.picture import Picture
from tests.watch.pages import run_page

Look = Callable[[float], None]


@pytest.fixture
def picture() -> Picture:
    return Picture("r")


@pytest.fixture
def served(picture: Picture) -> Iterator[tuple[int, Look]]:
    with serving_page(picture, 0) as (url, look):
        assert url.startswith("http://127.0.0.1:")
        yield int(url.rstrip("/").rpartition(":")[2]), look


def get(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg"),
    ],
)
def test_its_files_are_its_own_and_allow_nothing_from_elsewhere(
    served: tuple[int, Look], path: str, kind: str
) -> None:
    with get(served[0], path) as answer:
        text = answer.read().decode()
    assert answer.status == 200
    assert str(answer.getheader("Content-Type")).startswith(kind)
    policy = str(answer.getheader("Content-Security-Policy"))
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
    assert not {"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} & set(
        text.split(".")
    )


@pytest.mark.parametrize("path", ["/x", "/../pages.py", "/page.js?x=1", "/events/1"])
def test_there_is_nothing_else(served: tuple[int, Look], path: str) -> None:
    with get(served[0], path) as answer:
        assert answer.status == 404
        assert answer.getheader("Content-Security-Policy")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_a_page_of_another_name_gets_nothing(served: tuple[int, Look], host: str) -> None:
    for path in ("/", "/events"):
        with get(served[0], path, Host=host) as answer:
            assert answer.status == 421


def test_nothing_can_be_sent_to_it(served: tuple[int, Look]) -> None:
    for method in ("POST", "PUT", "DELETE"):
        with get(served[0], "/", method) as answer:
            assert answer.status == 501


def test_it_listens_on_this_machine_only(served: tuple[int, Look]) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {HOST}
    for address in others | {"127.0.0.2"}:
        with closing(socket.socket()) as client, pytest.raises(OSError, match="refused"):
            client.connect((address, served[0]))


def test_a_port_that_is_taken_is_told(picture: Picture, served: tuple[int, Look]) -> None:
    with pytest.raises(RunError, match=f"--page {served[0]}: Address already in use; choose another port"):
        serving_page(picture, served[0]).__enter__()


def events_of(answer: http.client.HTTPResponse, count: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    while len(found) < count:
        line = answer.readline()
        assert line
        if line.startswith(b"data: "):
            found.append(json.loads(line.removeprefix(b"data: ")))
    return found


def test_the_stream_begins_with_all_and_goes_on_with_what_changes(
    picture: Picture, served: tuple[int, Look]
) -> None:
    port, look = served
    with get(port, "/events") as answer:
        assert answer.getheader("Content-Type") == "text/event-stream"
        assert events_of(answer, 1)[0]["run"] is None
        look(0.0)  # nothing has changed
        picture.run = run_page()
        look(1.0)
        run = events_of(answer, 1)[0]["run"]
        assert isinstance(run, dict)
        assert run["round"] == 3


def test_a_quiet_stream_says_that_it_is_there(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "IDLE_S", 0.05)
    with (
        serving_page(picture, 0) as (url, _),
        get(int(url.rstrip("/").rpartition(":")[2]), "/events") as answer,
    ):
        events_of(answer, 1)
        assert answer.readline() == b"\n"
        assert answer.readline() == b": still here\n"


def test_connections_are_bounded_and_come_free_again(
    picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_module, "IDLE_S", 0.1)
    with serving_page(picture, 0) as (url, _):
        port = int(url.rstrip("/").rpartition(":")[2])
        streams = [get(port, "/events") for _ in range(MAX_CONNECTIONS)]
        with pytest.raises((ConnectionError, http.client.BadStatusLine)):
            get(port, "/")
        for stream in streams:
            stream.close()
        give_up_s = time.monotonic() + 5
        while True:
            try:
                with get(port, "/") as answer:
                    assert answer.status == 200
                    break
            except (ConnectionError, http.client.BadStatusLine):
                assert time.monotonic() < give_up_s
                time.sleep(0.05)


def test_it_ends_at_once_with_browsers_that_listen(picture: Picture) -> None:
    begin_s = time.monotonic()
    with serving_page(picture, 0) as (url, _):
        answer = get(int(url.rstrip("/").rpartition(":")[2]), "/events")
        events_of(answer, 1)
    assert time.monotonic() - begin_s < 3
    answer.close()
