"""What a client needs to get to a broker: addresses, certificates to trust, and what says who it is."""

import functools
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from broker.errors import BrokerError, RefusedError
from broker.urls import Address, parse_urls

_REFUSED = ("revoked", "expired", "unknown ca", "bad certificate", "certificate required", "unsupported",
            "certificate unknown", "access denied", "decrypt error")  # fmt: skip
_NOT_YET_VALID = 9  # X509_V_ERR_CERT_NOT_YET_VALID of OpenSSL


@dataclass(frozen=True, slots=True)
class Access:
    """How to get to a broker.

    Attributes:
        brokers: at least one, tried in turn; each has the user's name and password, if it takes any.
        ca_file: certificates to trust instead of the system's, PEM; for addresses with TLS.
        certificate: the client's own, PEM; None: it says who it is by name and password, or not at all.
        key: of the certificate.
    """

    brokers: tuple[Address, ...]
    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def explained(self, trouble: str) -> str:
        """Say more about a broker that closes a connection without a word."""
        if "hangs up" not in trouble or self.certificate is None:
            return trouble
        return f"{trouble}; perhaps it does not take our certificate, {self.certificate}"

    @classmethod
    def of(cls, urls: str | Sequence[str], ca_file: Path | None = None) -> "Access":
        """Make one from URLs.

        Raises:
            BrokerError: a URL that cannot be read; it is not repeated.
        """
        return cls(parse_urls(urls), ca_file)

    def context(self, address: Address | None = None) -> "Context | None":
        """Load the certificates if a broker asks for them.

        Args:
            address: of that broker; what it has against us is remembered for it alone. None: if any asks.

        Raises:
            BrokerError: a file is missing, or holds something else.
        """
        asks = address.tls if address else any(each.tls for each in self.brokers)
        return _context(self.ca_file, self.certificate, self.key, str(address)) if asks else None


def read_password(file: Path) -> str:
    """Read a password from a file; the end of the line does not belong to it.

    Raises:
        BrokerError: the file cannot be read, or holds no password or several lines.
    """
    try:
        password = file.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokerError(f"{file}: no password can be read from it: {error}") from error
    if not password or "\n" in password:
        raise BrokerError(f"{file}: must hold a password, in one line")
    return password


class _Socket(ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:
        """Close the socket when the handshake fails; paho leaves it open."""
        try:
            super().do_handshake(block)
        except OSError as error:
            self._note(error)
            self.close()
            raise

    def recv(self, buflen: int = 1024, flags: int = 0) -> bytes:
        """Note what the broker has against our certificate: with TLS 1.3 it says so after the handshake."""
        try:
            return super().recv(buflen, flags)
        except ssl.SSLError as error:
            self._note(error)
            raise

    def _note(self, error: OSError) -> None:
        if not isinstance(self.context, Context):
            return
        reason = str(getattr(error, "reason", None) or "").lower().replace("_", " ")
        if isinstance(error, ssl.SSLCertVerificationError):
            self.context.distrust = error
        elif "alert" in reason:
            self.context.alert = reason.partition("alert ")[2]


class Context(ssl.SSLContext):
    """TLS for clients; it remembers why it did not come to a connection.

    Attributes:
        alert: what the broker had to say against us, such as "certificate revoked"; empty for nothing.
        distrust: what we have against the broker's certificate; None for nothing.
    """

    alert = ""
    distrust: ssl.SSLCertVerificationError | None = None
    sslsocket_class = _Socket

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        """Wrap a socket; the zone of an IPv6 address is this machine's own and in no certificate."""
        host = options.get("server_hostname")
        if isinstance(host, str) and ":" in host:
            options["server_hostname"] = host.partition("%")[0]
        return super().wrap_socket(*arguments, **options)

    def forget(self) -> None:
        """Begin anew: a connection stands, so what there was against it is settled."""
        self.alert, self.distrust = "", None

    def check(self, address: Address) -> None:
        """Say why it cannot come to a connection with a broker, not even later.

        A certificate that is not valid yet is another matter: a board without a battery has a wrong clock
        until it finds a time server.

        Raises:
            RefusedError: one side does not take the other's certificate.
        """
        if any(word in self.alert for word in _REFUSED):
            raise RefusedError(f"{address} refuses our certificate: {self.alert}")
        if self.distrust is not None and self.distrust.verify_code != _NOT_YET_VALID:
            raise RefusedError(f"{address} is not trusted: {self.distrust.verify_message}")


@functools.cache
def _context(ca_file: Path | None, certificate: Path | None, key: Path | None, _place: str) -> Context:
    """Load certificates; the transports of a process share the result for each broker."""
    context = Context(ssl.PROTOCOL_TLS_CLIENT)
    file = ca_file
    try:
        if ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(ca_file)
        if certificate is not None:
            file = certificate
            context.load_cert_chain(certificate, key)
    except OSError as error:
        raise BrokerError(f"{file}: no certificates can be read from it: {error}") from error
    return context
