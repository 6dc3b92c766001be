"""Certificates of a fleet: its authority, its brokers', and those of its members; EC P-256, PEM.

    authority   signs all others and the list of revoked ones     3650 days
    broker      only for a server of TLS; its names and addresses  730 days
    member      only for a client of TLS; its name is the user's   730 days

A member's certificate cannot pass for a broker's, and the other way round (RFC 5280, 4.2.1.12).
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_DAYS = 3650
MEMBER_DAYS = 730
BROKER_DAYS = 730
EARLY = dt.timedelta(days=1)
"""A certificate is valid so long before it was made, since the clocks of small devices are late."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made, and its private key.

    Attributes:
        certificate: PEM.
        key: PEM (PKCS #8), not encrypted.
        serial: of the certificate, hexadecimal.
        expires: its last second, ISO 8601.
    """

    certificate: bytes
    key: bytes
    serial: str
    expires: str


def new_authority(fleet: str, now: dt.datetime) -> Issued:
    """Make the authority of a fleet.

    Args:
        fleet: its name.
        now: with a time zone.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"fedlite fleet {fleet}")
    usage = _usage(sign_certificates=True)
    builder = (
        _builder(name, key, now, AUTHORITY_DAYS)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
    )
    return _signed(builder, key, key)


def new_broker(authority: Issued, hosts: Sequence[str], now: dt.datetime) -> Issued:
    """Make the certificate of brokers.

    Args:
        authority: that signs it.
        hosts: every name and IP address that clients know the brokers by; the zone of an IPv6 address is left
            out.
        now: with a time zone.
    """
    names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    return _leaf(authority, "fedlite broker", ExtendedKeyUsageOID.SERVER_AUTH, BROKER_DAYS, now, names)


def new_member(authority: Issued, user: str, now: dt.datetime) -> Issued:
    """Make the certificate of a member, which names it as the user at the broker.

    Args:
        authority: that signs it.
        user: at most 64 characters.
        now: with a time zone.
    """
    return _leaf(authority, user, ExtendedKeyUsageOID.CLIENT_AUTH, MEMBER_DAYS, now)


def revoked_list(authority: Issued, serials: Sequence[str], now: dt.datetime) -> bytes:
    """Make the list of revoked certificates, PEM.

    It is valid for as long as the authority: a broker refuses everybody when its list is too old.

    Args:
        authority: that signs it.
        serials: hexadecimal.
        now: with a time zone.
    """
    issuer, key = _authority(authority)
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    builder = builder.last_update(now - EARLY).next_update(issuer.not_valid_after_utc)
    number = int(now.timestamp() * 1000)
    builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _leaf(
    authority: Issued,
    name: str,
    purpose: x509.ObjectIdentifier,
    days: int,
    now: dt.datetime,
    names: x509.SubjectAlternativeName | None = None,
) -> Issued:
    issuer, signing = _authority(authority)
    days = min(days, (issuer.not_valid_after_utc - now).days)  # no longer than who signed it
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_name(name), key, now, days)
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return _signed(builder, signing, key)


def _builder(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, days: int
) -> x509.CertificateBuilder:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLY)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(identifier, critical=False)
    )


def _signed(
    builder: x509.CertificateBuilder, signing: ec.EllipticCurvePrivateKey, key: ec.EllipticCurvePrivateKey
) -> Issued:
    certificate = builder.sign(signing, hashes.SHA256())
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        f"{certificate.serial_number:x}",
        certificate.not_valid_after_utc.isoformat(timespec="seconds"),
    )


def _authority(authority: Issued) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return x509.load_pem_x509_certificate(authority.certificate), key


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
