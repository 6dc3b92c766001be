"""Addresses of brokers as people write them, and the one rule for their passwords: they are never shown.

    mqtt://HOST                       port 1883
    mqtts://USER:PASSWORD@HOST:PORT   TLS, port 8883
    mqtts://[fe80::1%25eth0]          IPv6, with a zone or without
    mqtts://a.example,mqtts://b.example   several, tried in turn

An Address keeps its password for the transport alone. Its text for messages has host and port, its text for
files the user as well. A URL that cannot be read is never repeated, since any part of it may be the password.
"""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from broker.errors import BrokerError

EXAMPLE = "write it as mqtt://host:1883 or mqtts://host:8883"  # with no @: before one, all is masked
ELSEWHERE = "or give the password by --password-file or the environment variable FEDLITE_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}

_CREDENTIALS = re.compile(r"(\w+:/+)[^\n]*@")  # a URL that was taken for a path has a single slash
_NO_PORT = re.compile(r"(\w+:/+[^\s:/@\[]+:)(?!\d{1,5}\b)\S+")
_HOST = re.compile(r"[\w.-]{1,253}")
_OF_BROKER = re.compile(r"\bbroker\b")
_NOT_IN_CREDENTIALS = "#/?[]@ "


@dataclass(frozen=True, slots=True)
class Address:
    """Where a broker is, and the name and password to use there; as text it shows neither of the two.

    Attributes:
        host: a name or an IP address; an IPv6 address may have a zone, as fe80::1%eth0.
        port: 1 to 65535.
        tls: whether the connection is encrypted.
        username: of the user at the broker; None: nobody in particular, or whom a certificate names.
        password: its password; not in the repr.
    """

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host.replace('%', '%25')}]" if ":" in self.host else self.host
        return f"mqtt{'s' if self.tls else ''}://{host}:{self.port}"

    @property
    def without_password(self) -> str:
        """The URL with the user's name and no password: what may stand in files and in lists of processes."""
        return self._with("" if self.username is None else quote(self.username, safe=""))

    @property
    def secret(self) -> str:
        """The whole URL, for another process of ours; through its environment alone."""
        password = "" if self.password is None else f":{quote(self.password, safe='')}"
        return self._with("" if self.username is None else quote(self.username, safe="") + password)

    def _with(self, credentials: str) -> str:
        scheme, _, place = str(self).partition("://")
        return f"{scheme}://{credentials}@{place}" if credentials else str(self)


def parse_urls(urls: str | Iterable[str]) -> tuple[Address, ...]:
    """Read the URLs of one broker or several; a text may hold several, with commas between them.

    Raises:
        BrokerError: none at all, or see parse_url.
    """
    texts = [urls] if isinstance(urls, str) else urls
    single = [url for text in texts for url in re.split(r",\s*(?=mqtts?://)", text.strip())]
    if not single:
        raise BrokerError(f"no URL of a broker; {EXAMPLE}")
    return tuple(dict.fromkeys(map(parse_url, single)))


def parse_url(url: str) -> Address:
    """Read the URL of one broker.

    Raises:
        BrokerError: the URL is anything else. The text does not repeat any part of it.
    """
    found = re.fullmatch(r"(mqtts?)://(?:(.*)@)?([^@]*?)/?", url.strip(), re.DOTALL)
    if found is None:
        raise _wrong("it must begin with mqtt:// or mqtts://")
    scheme, credentials, place = found.groups()
    username, password = _read_credentials(credentials)
    bracketed = re.fullmatch(r"\[(.*)](?::(.*))?", place, re.DOTALL)
    host, _, port = place.partition(":") if bracketed is None else (bracketed[1], "", bracketed[2] or "")
    if bracketed is None and ":" in port:
        raise _wrong("an IPv6 address stands in brackets, as in mqtt://[::1]:1883")
    host = _read_ipv6(host) if bracketed else host.lower()
    if not bracketed and not _HOST.fullmatch(host):
        raise _wrong("a '#', '/' or '?' in a password must be written as %23, %2F or %3F")
    if (place.endswith(":") or port) and not (
        port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 2**16  # noqa: PLR2004
    ):
        raise _wrong("its port must be a number from 1 to 65535")
    return Address(host, int(port) if port else PORTS[scheme], scheme == "mqtts", username, password)


def with_password(addresses: Iterable[Address], password: str | None) -> tuple[Address, ...]:
    """Give a password to each address that has a user and no password of its own.

    Raises:
        BrokerError: there is a password, and no address that names a user.
    """
    found = tuple(addresses)
    if password is not None and not any(address.username for address in found):
        raise BrokerError(
            "there is a password and no user name; a user stands in the URL, before the host and an @"
        )
    return tuple(
        replace(address, password=password) if address.username and address.password is None else address
        for address in found
    )


def masked(text: str) -> str:
    """Take out of a text what may be a password in a URL.

    That is what stands between :// and the last @ of a line; and where there is no @, what stands in the
    place of a port and is none.
    """
    return _NO_PORT.sub(r"\1***", _CREDENTIALS.sub(r"\1***@", text))


def masked_setting(assignment: str) -> str:
    """Give a setting such as training.cohort=5 for a message: of one of the broker's only the key."""
    start, equals, _ = assignment.partition("=")
    return start if equals and _OF_BROKER.search(start) else masked(assignment)


def _read_credentials(text: str | None) -> tuple[str | None, str | None]:
    if text is None:
        return None, None
    wrong = {char for char in text if char in _NOT_IN_CREDENTIALS}
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        wrong.add("%")
    if wrong:
        codes = ", ".join(f"'{char}' as %{ord(char):02X}" for char in sorted(wrong))
        raise _wrong(f"in a user name or password write {codes}; {ELSEWHERE}")
    name, colon, password = text.partition(":")
    if not name:
        raise _wrong("a password needs the name of a user before it")
    try:
        decoded = unquote(name, errors="strict"), unquote(password, errors="strict") if colon else None
    except UnicodeDecodeError:
        raise _wrong("its %-codes must be those of UTF-8") from None
    if any(ord(char) < ord(" ") for part in decoded for char in part or ""):
        raise _wrong("a user name or password has no control characters")
    return decoded


def _read_ipv6(text: str) -> str:
    address, percent, zone = text.partition("%")
    zone = zone.removeprefix("25") if zone != "25" else zone  # RFC 6874 writes the % of a zone as %25
    why = "an IPv6 address, and nothing else, stands in brackets"
    if percent and not re.fullmatch(r"[\w.-]+", zone):
        raise _wrong(why)
    try:
        return str(ipaddress.IPv6Address(address)) + percent + zone
    except ValueError:
        raise _wrong(why) from None


def _wrong(why: str) -> BrokerError:
    return BrokerError(f"not the URL of a broker: {why}; {EXAMPLE}")
