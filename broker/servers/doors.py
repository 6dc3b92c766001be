"""Who may come in at the embedded broker, and what for: what Mosquitto does with the same files of a fleet.

The first packet of a connection is read here, before amqtt sees it. Its user is the one that the certificate
or the password proves; the MQTT client identifier becomes the user's name. So amqtt, which ends the older of
two connections with one identifier before it asks who the newer is, meets nobody under another's name.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amqtt.adapters import ReaderAdapter
from amqtt.errors import AMQTTError, MQTTError, NoDataError
from amqtt.mqtt.connack import BAD_USERNAME_PASSWORD, NOT_AUTHORIZED, ConnackPacket
from amqtt.mqtt.connect import ConnectPacket

from broker.errors import BrokerError
from broker.provisioning import configuration as conf
from broker.provisioning.passwords import is_password
from broker.provisioning.rights import Rights, read_access_list


@dataclass(frozen=True, slots=True)
class Doors:
    """The files of a fleet's broker, read.

    Attributes:
        tls: for the listener; it asks for a certificate unless there are passwords.
        rights: of every member.
        passwords: hashes by user; None: members have certificates.
    """

    tls: ssl.SSLContext
    rights: Rights
    passwords: dict[str, str] | None

    @classmethod
    def of(cls, folder: Path) -> "Doors":
        """Read a broker's files.

        Raises:
            BrokerError: one is missing, or is not what it should be.
        """
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        by_password = (folder / conf.PASSWORDS).is_file()
        try:
            rights = Rights(read_access_list((folder / conf.ACCESS).read_text()))
            tls.load_cert_chain(folder / conf.CERTIFICATE, folder / conf.KEY)
            if by_password:
                lines = (folder / conf.PASSWORDS).read_text().splitlines()
                return cls(tls, rights, dict(line.split(":", 1) for line in lines))
            tls.load_verify_locations(folder / conf.AUTHORITY)
            tls.load_verify_locations(folder / conf.REVOKED)
        except (OSError, ValueError) as error:
            raise BrokerError(f"{folder}: not the files of a fleet's broker: {error}") from error
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        return cls(tls, rights, None)

    async def enter(self, reader: ReaderAdapter, certificate: ssl.SSLObject) -> tuple[str, bytes]:
        """Read the first packet of a connection; give who it is, and what amqtt is to read instead.

        Args:
            reader: of the connection.
            certificate: the connection's end of TLS.

        Raises:
            RefusedEntryError: the packet is none that lets anybody in; it has the answer to send.
        """
        try:
            packet = await ConnectPacket.from_stream(reader)
        except (AMQTTError, MQTTError, NoDataError) as error:
            raise RefusedEntryError(b"") from error
        user = self._proven(packet, certificate)
        if user is None:
            raise RefusedEntryError(ConnackPacket.build(0, BAD_USERNAME_PASSWORD).to_bytes())
        if packet.will_flag and not self.rights.may(user, "write", packet.will_topic):
            raise RefusedEntryError(ConnackPacket.build(0, NOT_AUTHORIZED).to_bytes())
        packet.username_flag, packet.username = True, user
        packet.password_flag, packet.password = False, None
        packet.client_id = user
        entered: bytes = packet.to_bytes()
        return user, entered

    def _proven(self, packet: ConnectPacket, certificate: ssl.SSLObject) -> str | None:
        if self.passwords is not None:
            stored = self.passwords.get(packet.username or "")
            known = stored is not None and is_password(packet.password or "", stored)
            return packet.username if known else None
        shown: Any = certificate.getpeercert() or {}
        names = [value for part in shown.get("subject", ()) for key, value in part if key == "commonName"]
        return str(names[0]) if len(names) == 1 else None


class RefusedEntryError(Exception):
    """Somebody is not let in.

    Attributes:
        answer: the packet that says so; empty for none.
    """

    def __init__(self, answer: bytes) -> None:
        super().__init__("not let in")
        self.answer = answer
