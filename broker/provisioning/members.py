"""What fleet.json says: who is in a fleet, which runs it has, and how its members say who they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec


class Member(msgspec.Struct):
    """Whom the broker lets in.

    Attributes:
        run: that the bundle of a device names; empty for none.
        certificates: serial numbers of all that are valid, and until when, ISO 8601; the newest is the last.
        password: its hash; empty without one.
    """

    run: str = ""
    certificates: dict[str, str] = {}
    password: str = ""


class State(msgspec.Struct):
    """What fleet.json says.

    Attributes:
        name: of the fleet.
        brokers: their URLs.
        passwords: whether members say who they are by passwords, not by certificates.
        broker_files: where the broker's files lie on its machine.
        runs: their names, each with the file name of its task's own code, if it has such.
        members: by their user names.
        revoked: serial numbers of certificates.
        broker_expires: last second of the broker's certificate, ISO 8601.
    """

    name: str
    brokers: list[str]
    passwords: bool
    broker_files: str
    runs: dict[str, str]
    members: dict[str, Member] = {}
    revoked: list[str] = []
    broker_expires: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """A run that a fleet is to have.

    Attributes:
        name: of the run.
        clients: that may be in it.
        module: the file of its task's own code; None for none.
    """

    name: str
    clients: Sequence[str]
    module: Path | None = None
