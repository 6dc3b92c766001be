"""Passwords of a fleet's members, hashed as `mosquitto_passwd` of Mosquitto 2 hashes them."""

import base64
import hashlib
import hmac
import secrets

_ITERATIONS = 101
"""As Mosquitto's own. A password of 192 random bits needs no slow hash."""

_SALT_BYTES = 12


def new_password() -> str:
    """Give a password of 32 characters that need no encoding in a URL."""
    return secrets.token_urlsafe(24)


def hashed(password: str) -> str:
    """Give what stands behind the user's name in Mosquitto's password_file: PBKDF2 with SHA-512."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return "$".join(["", "7", str(_ITERATIONS), _text(salt), _text(_digest(password, salt, _ITERATIONS))])


def is_password(password: str, stored: str) -> bool:
    """Tell whether a password is the one of a hash."""
    try:
        _, kind, iterations, salt, digest = stored.split("$")
        expected, count = base64.b64decode(digest), int(iterations)
        given = _digest(password, base64.b64decode(salt), count)
    except ValueError:
        return False
    return kind == "7" and hmac.compare_digest(given, expected)


def _digest(password: str, salt: bytes, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
