"""URLs of brokers, and the certificates to trust."""

import functools
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from broker.errors import BrokerError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and the name and password to use there; as text it shows neither of the two."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"


def parse_url(url: str) -> Address:
    """Read mqtt://host, mqtt://user:password@host:port or the same with mqtts://.

    Raises:
        BrokerError: the URL is anything else. The text does not repeat it, since it may hold a password.
    """
    example = "write it as mqtt://host:1883 or mqtts://user:password@host:8883"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BrokerError(f"not the URL of a broker: {error}; {example}") from None
    if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise BrokerError(f"not the URL of a broker; {example}")
    tls = parts.scheme == "mqtts"
    username, password = (unquote(part) if part else None for part in (parts.username, parts.password))
    return Address(parts.hostname, port or (8883 if tls else 1883), tls, username, password)


class _Socket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        """Close the socket when the handshake fails; paho leaves it open."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


@functools.cache
def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Load the certificates to trust; the transports of a process share the result.

    Raises:
        BrokerError: the file is missing or holds no certificates.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise BrokerError(f"{ca_file}: no certificates can be read from it: {error}") from error
    context.sslsocket_class = _Socket
    return context
