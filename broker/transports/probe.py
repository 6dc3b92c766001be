"""Tries a broker step by step and says what it answers; for checks by people, not for runs.

It speaks MQTT 5, in which a broker says why it refuses a message, and MQTT 3.1.1 where that is all there is.
"""

import queue
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from broker.errors import BrokerError, RefusedError, UnreachableError

ANSWER_S = 10.0
ALERT_S = 2.0
"""How long each answer of a broker is waited for."""

_NO_SUCH_VERSION = 132
_REFUSED = frozenset(range(128, 256))
_LOGIN_REFUSED = {133, 134, 135, 138, 140}
_TAKEN_OVER = 142
_TOO_LARGE = 149


class Place(Protocol):
    """Where a broker is, and who asks."""

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def username(self) -> str | None: ...  # noqa: D102
    @property
    def password(self) -> str | None: ...  # noqa: D102


def shake_hands(place: Place, context: ssl.SSLContext | None) -> dict[str, Any]:
    """Connect by TCP, and by TLS if there is a context; give the broker's certificate, empty without TLS.

    Raises:
        OSError: nobody listens there, or TLS fails (ssl.SSLError).
    """
    with socket.create_connection((place.host, place.port), timeout=ANSWER_S) as plain:
        if context is None:
            return {}
        try:
            with context.wrap_socket(plain, server_hostname=place.host.partition("%")[0]) as encrypted:
                return dict(encrypted.getpeercert() or {})
        except ssl.SSLError:
            raise
        except OSError as error:
            raise ssl.SSLError(f"it hangs up: {error.strerror or error}") from error


def hear_alert(place: Place, context: ssl.SSLContext) -> None:
    """Connect by TLS and say nothing: so the broker's alert against our certificate arrives.

    Whoever writes first may get a reset instead, and with it nothing of what the broker has said. The context
    takes note of the alert.
    """
    with (
        suppress(OSError),
        socket.create_connection((place.host, place.port), timeout=ANSWER_S) as plain,
        context.wrap_socket(plain, server_hostname=place.host.partition("%")[0]) as encrypted,
    ):
        encrypted.settimeout(ALERT_S)
        encrypted.recv(1)


@dataclass(frozen=True, slots=True)
class _Said:
    kind: str
    mid: int
    codes: list[int]
    properties: Any = None


class Probe:
    """A connection to a broker, as a context manager.

    Args:
        place: of the broker, with user and password.
        context: for TLS; None: without.
        client_id: MQTT client identifier.

    Attributes:
        version: of MQTT: 5, or 4 for 3.1.1.
        most_bytes: of a packet, as far as the broker told; None: it did not.
    """

    def __init__(self, place: Place, context: ssl.SSLContext | None, client_id: str) -> None:
        self._place, self._context, self._client_id = place, context, client_id
        self.version, self.most_bytes = 5, None  # type: int, int | None

    def __enter__(self) -> Self:
        """Connect.

        Raises:
            RefusedError: the broker does not let us in.
            UnreachableError: it does not answer, or hangs up.
        """
        try:
            self._connect(MQTTProtocolVersion.MQTTv5)
        except _NoSuchVersionError:
            self.version = 4
            self._connect(MQTTProtocolVersion.MQTTv311)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def _connect(self, version: MQTTProtocolVersion) -> None:
        self._heard: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._messages: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()
        self._client = client = paho.Client(CallbackAPIVersion.VERSION2, self._client_id, protocol=version)
        if self._place.username is not None:
            client.username_pw_set(self._place.username, self._place.password)
        if self._context is not None:
            client.tls_set_context(self._context)
        client.connect_timeout = ANSWER_S
        client.on_connect = lambda _c, _u, _f, code, props: self._hears("connected", 0, [code], props)
        client.on_disconnect = lambda _c, _u, _f, code, _p: self._hears("disconnected", 0, [code])
        client.on_subscribe = lambda _c, _u, mid, codes, _p: self._hears("subscribed", mid, codes)
        client.on_publish = lambda _c, _u, mid, code, _p: self._hears("published", mid, [code])
        client.on_message = lambda _c, _u, message: self._messages.put(
            (message.topic, bytes(message.payload))
        )
        try:
            client.connect(self._place.host, self._place.port, keepalive=30)
        except OSError as error:
            raise UnreachableError(f"it does not answer: {error}") from error
        client.loop_start()
        try:
            said = self._wait_for("connected", 0)
        except BrokerError:
            self._leave()
            if version == MQTTProtocolVersion.MQTTv5:
                raise _NoSuchVersionError from None
            raise
        code = said.codes[0]
        if code in _REFUSED:
            self._leave()
            if code in _LOGIN_REFUSED:
                raise RefusedError({134: "wrong user name or password"}.get(code, "not authorized"))
            if version == MQTTProtocolVersion.MQTTv5:
                raise _NoSuchVersionError
            raise UnreachableError(f"it refuses the connection with code {code}")
        told = getattr(said.properties, "MaximumPacketSize", None)
        self.most_bytes = told if isinstance(told, int) else None

    def _hears(self, kind: str, mid: int, codes: Sequence[Any], properties: Any = None) -> None:
        self._heard.put(_Said(kind, mid, [int(getattr(code, "value", code)) for code in codes], properties))

    def _wait_for(self, kind: str, mid: int) -> _Said:
        until = monotonic() + ANSWER_S
        while (left := until - monotonic()) > 0:
            try:
                said = self._heard.get(timeout=left)
            except queue.Empty:
                break
            if said.kind == "disconnected":
                raise UnreachableError(_why_gone(said.codes[0]))
            if (said.kind, said.mid) == (kind, mid):
                return said
        raise UnreachableError(f"no answer within {ANSWER_S:.0f} s")

    def subscribe(self, filters: Sequence[str]) -> list[str]:
        """Subscribe; give the filters that the broker refuses.

        Raises:
            UnreachableError: no answer, or the broker hangs up.
        """
        options: Any = [(each, SubscribeOptions(qos=1) if self.version == 5 else 1) for each in filters]  # noqa: PLR2004
        _, mid = self._client.subscribe(options)
        codes = self._wait_for("subscribed", mid or 0).codes
        return [each for each, code in zip(filters, codes, strict=False) if code in _REFUSED]

    def publish(self, topic: str, payload: bytes) -> bool:
        """Publish with QoS 1; tell whether the broker takes it. Only with MQTT 5 it says if it does not.

        Raises:
            UnreachableError: no answer, or the broker hangs up.
        """
        sent = self._client.publish(topic, payload, qos=1)
        return self._wait_for("published", sent.mid).codes[0] not in _REFUSED

    def messages(self, seconds: float) -> Iterator[tuple[str, bytes]]:
        """Give topics and payloads until none came for so long."""
        while True:
            try:
                yield self._messages.get(timeout=seconds)
            except queue.Empty:
                return


def _why_gone(code: int) -> str:
    if code == _TAKEN_OVER:
        return "somebody else connected under this name: stop the device's service while you check it"
    return "the packet is too large for it" if code == _TOO_LARGE else "it hangs up"


class _NoSuchVersionError(Exception):
    """The broker does not speak this version of MQTT."""
