"""From when to when a certificate is valid, read from its file (RFC 5280, 4.1.2.5; DER: X.690)."""

import ssl
from datetime import UTC, datetime

_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


def validity(pem: str) -> tuple[datetime, datetime]:
    """Give the first and last moment at which the first certificate of a PEM text is valid.

    Raises:
        ValueError: it is no certificate.
    """
    begin = pem.find("-----BEGIN CERTIFICATE-----")
    end_mark = "-----END CERTIFICATE-----"
    end = pem.find(end_mark, begin)
    if begin < 0 or end < 0:
        raise ValueError("there is no certificate in it")
    certificate, _ = _content(ssl.PEM_cert_to_DER_cert(pem[begin : end + len(end_mark)]), _SEQUENCE)
    signed, _ = _content(certificate, _SEQUENCE)
    if signed[:1] == bytes([_VERSION]):
        _, signed = _content(signed, _VERSION)
    for _serial_algorithm_issuer in range(3):
        _, signed = _content(signed)
    times, _ = _content(signed, _SEQUENCE)
    first, times = _time(times)
    last, _ = _time(times)
    return first, last


def _content(data: bytes, tag: int | None = None) -> tuple[bytes, bytes]:
    """Give the content of the element at the beginning, and what follows it."""
    if len(data) < 2 or (tag is not None and data[0] != tag):  # noqa: PLR2004
        raise ValueError("it is no certificate")
    length, start = data[1], 2
    if length >= 0x80:  # noqa: PLR2004  then it counts the bytes of the length
        start += length - 0x80
        length = int.from_bytes(data[2:start], "big")
    if len(data) < start + length:
        raise ValueError("the certificate is cut off")
    return data[start : start + length], data[start + length :]


def _time(data: bytes) -> tuple[datetime, bytes]:
    content, rest = _content(data)
    text = content.decode("ascii")
    if data[0] == _UTC_TIME:  # two digits for a year from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif data[0] != _GENERALIZED_TIME:
        raise ValueError("a time in the certificate has another form")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC), rest
