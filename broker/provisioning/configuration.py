"""Settings of Mosquitto for this project, with the files of a fleet or without any."""

import os
import re
from pathlib import Path

from broker.errors import BrokerError
from broker.wire.chunks import MAX_PACKET_BYTES

AUTHORITY, CERTIFICATE, KEY = "ca.crt", "broker.crt", "broker.key"
REVOKED, PASSWORDS, ACCESS, CONFIG = "revoked.pem", "passwords", "access.acl", "mosquitto.conf"
"""Names of a broker's files."""

_HEADER_BYTES = 2**16 + 16  # the longest topic, and the rest of the header


def settings(data: Path | str) -> list[str]:
    """Give the lines that every Mosquitto of this project has.

    Args:
        data: where it keeps what it must remember; absolute.
    """
    return [
        "set_tcp_nodelay true",  # without it every round trip takes 40 ms more
        f"max_packet_size {MAX_PACKET_BYTES + _HEADER_BYTES}",  # who sends more is disconnected
        "max_inflight_messages 100",
        "max_queued_messages 20000",  # above its default of 1000, mosquitto drops silently
        "max_queued_bytes 268435456",  # for each client
        "persistence true",
        f"persistence_location {data}/",
        "autosave_interval 30",
        "connection_messages false",
        "log_dest stderr",
    ]


def fleet_config(files: Path | str, data: Path | str, *, port: int, host: str = "", passwords: bool) -> str:
    """Give the text of a mosquitto.conf that lets in a fleet's members alone.

    The user's name, which is the client's, becomes the MQTT client identifier, whatever the client says: so
    nobody can end another's connection by taking its identifier.

    Args:
        files: where the broker's files lie on its machine; absolute.
        data: see settings.
        port: TCP port.
        host: address to listen on; empty: all.
        passwords: members say who they are by passwords, not by certificates.
    """
    lines = [
        f"listener {port} {host}".rstrip(),
        "allow_anonymous false",
        f"cafile {files}/{AUTHORITY}",
        f"certfile {files}/{CERTIFICATE}",
        f"keyfile {files}/{KEY}",
        f"acl_file {files}/{ACCESS}",
        "use_username_as_clientid true",
    ]
    if passwords:
        lines += [f"password_file {files}/{PASSWORDS}"]
    else:
        lines += [
            "require_certificate true",
            "use_identity_as_username true",
            f"crlfile {files}/{REVOKED}",
        ]
    return "\n".join([*lines, *settings(data)]) + "\n"


def running_as() -> list[str]:
    """Keep Mosquitto the user that it is started as, where that is root.

    Otherwise it changes to a user that cannot write to its folder.
    """
    return ["user root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def port_of(config: str) -> int:
    """Read the port out of what fleet_config wrote.

    Raises:
        BrokerError: it has none.
    """
    found = re.search(r"^listener (\d+)", config, re.MULTILINE)
    if found is None:
        raise BrokerError(f"{CONFIG} has no listener; `fedlite fleet` writes one")
    return int(found[1])
