"""From when to when a certificate is valid, read without a library for certificates."""

from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from broker.transports.validity import validity

AUTHORITY = trustme.CA()
PEM = AUTHORITY.issue_cert("a.example").cert_chain_pems[0].bytes().decode()
FIRST, LAST = datetime(1951, 1, 1), datetime(9998, 1, 1)  # noqa: DTZ001 - hypothesis wants them so
moments = st.datetimes(FIRST, LAST).map(lambda moment: moment.replace(microsecond=0))


@given(moments, moments)
def test_the_times_are_those_that_a_library_reads(one: datetime, other: datetime) -> None:
    first, last = sorted((one, other))
    issued = AUTHORITY.issue_cert("a.example", not_before=first, not_after=last)
    pem = issued.cert_chain_pems[0].bytes()
    read = x509.load_pem_x509_certificate(pem)
    assert validity(pem.decode()) == (read.not_valid_before_utc, read.not_valid_after_utc)
    assert validity(pem.decode())[0] == first.replace(tzinfo=UTC)


@given(st.text(max_size=50) | st.binary(max_size=80).map(lambda data: PEM[:60] + data.hex() + PEM[60:]))
def test_what_is_no_certificate_is_refused(text: str) -> None:
    try:
        first, last = validity(text)
    except ValueError:
        return
    assert first.tzinfo is last.tzinfo is UTC


def test_a_certificate_that_is_cut_off_is_refused() -> None:
    body = PEM.splitlines()[1:-1]
    for count in range(0, len(body), 2):
        cut = "\n".join(["-----BEGIN CERTIFICATE-----", *body[:count], "-----END CERTIFICATE-----"])
        with pytest.raises(ValueError, match="certificate"):
            validity(cut)
