"""The fleet, its links, and the speed of broker and server in virtual time.

A live run has real links, devices, brokers and presence. It reads two things of this: the number of clients,
and their links if `flows.by_link` has rules. docs/models.md describes the models behind the numbers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scenarios.errors import suggestion
from scenarios.schema.base import Key, NotNegative, Part, Positive, PositiveInt
from scenarios.schema.devices import DeviceChoice, Slowdown
from scenarios.schema.links import LinkChoice


class Always(Part):
    """A device that is always online."""

    pattern: Literal["always"] = Field(default="always", description="when the device is online")


class OnOff(Part):
    """A device that is online and offline for exponential times, in equilibrium from the start."""

    pattern: Literal["on_off"] = Field(default="on_off", description="when the device is online")
    mean_on_s: Positive = Field(description="mean time online")
    mean_off_s: Positive = Field(description="mean time offline")


class PresenceTrace(Part):
    """Devices that are online at the times in a file."""

    pattern: Literal["trace"] = Field(default="trace", description="when the device is online")
    file: Path = Field(description="CSV with the columns client, from_s, to_s; an empty to_s is the end")


Availability = Annotated[Always | OnOff | PresenceTrace, Field(discriminator="pattern")]


class FleetGroup(Part):
    """Clients with the same kind of device, link and presence."""

    count: PositiveInt = Field(description="how many")
    device: DeviceChoice = Field(default="instant", description="a preset, or seconds per batch")
    slowdown: Slowdown | None = Field(default=None, description="factor on the device's seconds")
    link: LinkChoice = Field(default="none", description="a preset, or rates and latency")
    via: str | None = Field(default=None, description="access point of `network` that these clients share")
    availability: Availability = Field(default=Always(), description="when these clients are online")


class AccessPoint(Part):
    """A link that devices share; transfers under way get max-min fair shares of its rate."""

    uplink_kbps: Positive | None = Field(default=None, description="rate up; unlimited if not given")
    downlink_kbps: Positive | None = Field(default=None, description="rate down; unlimited if not given")


class BrokerModel(Part):
    """The broker in virtual time; by default it takes no time and has the limits of a live mosquitto."""

    per_message_us: NotNegative = Field(default=0.0, description="time for each message that it delivers")
    per_byte_ns: NotNegative = Field(default=0.0, description="further time for each byte")
    in_flight: PositiveInt = Field(default=100, description="messages under way to one client at once")
    queue_limit: PositiveInt = Field(
        default=20_000, description="messages that may wait for one client; further ones are dropped silently"
    )
    keepalive_s: Positive = Field(
        default=30.0, description="the broker notices a vanished client after one and a half of these"
    )


class ServerModel(Part):
    """The server in virtual time; it does one computation at a time."""

    tail_batch_s: NotNegative = Field(default=0.0, description="time for each pass through the tail")
    tail_sample_s: NotNegative = Field(default=0.0, description="further time for each sample in it")
    update_s: NotNegative = Field(default=0.0, description="optimizer step of the tail")
    close_s: NotNegative = Field(default=0.0, description="average of the heads; evaluation takes no time")
    link: LinkChoice = Field(default="none", description="server to broker: a preset, or rates and latency")
    source: str = Field(default="", description="where the numbers come from")


class Network(Part):
    """What devices share in virtual time: access points, broker, server."""

    access_points: dict[str, AccessPoint] = Field(default={}, description="shared bottlenecks by name")
    broker: BrokerModel = Field(default=BrokerModel(), description="its speed and limits")
    server: ServerModel = Field(default=ServerModel(), description="its speed and link")


def unknown_access_points(fleet: tuple[FleetGroup, ...], network: Network) -> Iterator[tuple[Key, str]]:
    """Give a message for each group of clients behind an access point that `network` does not have."""
    for number, group in enumerate(fleet):
        if group.via is not None and group.via not in network.access_points:
            near = suggestion(group.via, network.access_points, label="in network.access_points")
            yield ("fleet", number, "via"), f"unknown access point '{group.via}'{near}"
