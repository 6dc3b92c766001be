"""The broker of a live run. A password in its URL is for the transport alone, see broker.urls."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from broker.errors import BrokerError
from broker.urls import Address, parse_urls
from scenarios.schema.base import Part


def _read(value: Any) -> tuple[Address, ...]:
    """Read one URL, or a list of them; what cannot be read is not repeated."""
    if isinstance(value, tuple) and value and all(isinstance(each, Address) for each in value):
        return value
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("must be the URL of a broker, or a list of such")
    try:
        return parse_urls(texts)
    except BrokerError as error:
        raise ValueError(str(error)) from None


def _written(brokers: tuple[Address, ...]) -> str | list[str]:
    """Write them as they may stand in files: with users and without passwords."""
    urls = [address.without_password for address in brokers]
    return urls[0] if len(urls) == 1 else urls


BrokerUrls = Annotated[
    tuple[Address, ...],
    PlainValidator(_read),
    PlainSerializer(_written),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class BrokerSpec(Part):
    """The MQTT broker of a live run."""

    kind: Literal["embedded", "mosquitto", "url"] = Field(
        default="embedded",
        description="embedded: in this process; mosquitto: started beside it; url: one that runs already",
    )
    url: BrokerUrls | None = Field(
        default=None,
        description=(
            "mqtt://host[:port] or mqtts://[user@]host[:port], for kind url; a list: they are tried in turn"
        ),
    )
    ca_file: Path | None = Field(default=None, description="certificate authority of an mqtts broker, PEM")
    password_file: Path | None = Field(
        default=None,
        description="file with the password of the url's user; FEDLITE_PASSWORD in the environment wins",
    )
    packet_bytes: Annotated[int, Field(ge=4096, le=128_000)] = Field(
        default=128_000,
        description="largest payload of an MQTT packet, larger messages are cut; for brokers that take less",
    )
    client_id: Literal["{run}-{name}", "{name}"] = Field(
        default="{run}-{name}",
        description="MQTT client identifiers; {name} alone for brokers that tie them to the user's name",
    )

    @property
    def is_named_by_user(self) -> bool:
        """Whether the client id is the name alone, for brokers that tie it to the user."""
        return self.client_id == "{name}"

    def client_id_of(self, run: str, name: str) -> str:
        """Give the MQTT client identifier of a client, or of the server, whose name is "server"."""
        return self.client_id.format(run=run, name=name)
