"""The page of a live run, for browsers on this machine: three files, and a stream of what there is to see.

The stream is Server-Sent Events: one JSON object a second, if anything has changed. All texts in it may come
from strangers, and page.js puts them into the page as text only; the content security policy allows neither
scripts nor styles nor requests but those of this server.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from socketserver import TCPServer
from typing import Any

import msgspec

from broker.errors import RunError
from sim.watch.picture import Picture

HOST = "127.0.0.1"
MAX_CONNECTIONS = 32
"""Further ones are closed at once."""
IDLE_S = 20.0
"""A browser may take so long to send a request or to take an answer; the stream says something as often."""

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_FILES = {
    "/": ("page.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Stream:
    """The last content, and a bell that rings when there is a newer one; may be used from any thread."""

    def __init__(self, content: bytes) -> None:
        self._bell = threading.Condition()
        self._content = content
        self._number = 0
        self._closed = False

    def put(self, content: bytes) -> None:
        """Offer new content."""
        with self._bell:
            if content != self._content:
                self._content, self._number = content, self._number + 1
                self._bell.notify_all()

    def close(self) -> None:
        """Let all readers leave."""
        with self._bell:
            self._closed = True
            self._bell.notify_all()

    def after(self, number: int) -> tuple[bytes, int] | None:
        """Wait for content that is newer than the one with a number.

        Returns:
            The content and its number: the same as before if nothing has come for a while. None: no more
            will come.
        """
        with self._bell:
            self._bell.wait_for(lambda: self._closed or self._number != number, IDLE_S)
            return None if self._closed else (self._content, self._number)


def content_of(picture: Picture) -> bytes:
    """Give all of a picture as a JSON object, for the page."""
    return msgspec.json.encode(
        {
            "name": picture.name,
            "connected": picture.connected,
            "state": None if picture.state is None else msgspec.structs.asdict(picture.state),
            "run": picture.run,
            "round": picture.round,
            "history": picture.history,
            "events": [] if picture.events is None else picture.events.events,
            "clients": picture.fleet,
        }
    )


@contextmanager
def serving_page(picture: Picture, port: int) -> Iterator[tuple[str, Callable[[float], None]]]:
    """Serve the page of a picture to this machine for as long as the context lasts.

    Args:
        picture: of the run.
        port: 0: any that is free.

    Yields:
        The page's address, and what is to be called when the picture may have changed.

    Raises:
        RunError: the port cannot be had.
    """
    stream = Stream(content_of(picture))
    try:
        server = _Server(stream, port)
    except OSError as error:
        raise RunError(
            f"--page {port}: {error.strerror or error}; choose another port, or 0 for any"
        ) from error
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield f"http://{HOST}:{server.server_port}/", lambda _now_s: stream.put(content_of(picture))
    finally:
        stream.close()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, stream: Stream, port: int) -> None:
        self.stream = stream
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__((HOST, port), _Handler)
        self.names = {f"{name}:{self.server_port}" for name in (HOST, "localhost")}

    def server_bind(self) -> None:
        """Bind the socket, without asking the name server what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, if there is room."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: browsers leave when they like."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = IDLE_S
    server_version, sys_version = "fedlite", ""

    def do_GET(self) -> None:
        """Answer a request; one that names another host comes from a page that poses as this one."""
        if self.headers.get("Host") not in self.server.names:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
        elif self.path == "/events":
            self._stream()
        elif self.path in _FILES:
            name, kind = _FILES[self.path]
            content = resources.files(__package__).joinpath(name).read_bytes()
            self._head(kind, len(content))
            self.wfile.write(content)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def _stream(self) -> None:
        self._head("text/event-stream")
        number = -1
        while (news := self.server.stream.after(number)) is not None:
            content, before = news[0], number
            number = news[1]
            self.wfile.write(b": still here\n\n" if number == before else b"data: " + content + b"\n\n")

    def _head(self, kind: str, length: int | None = None) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def end_headers(self) -> None:
        """Add the headers of all answers, errors included."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_args: Any) -> None:
        """Keep no log of requests."""
