"""Who is in the fleet, how it is connected, and what broker and server are like in virtual time.

A live run has real links, devices, brokers and presence. Of all this it reads the count, and the
link where `flows.by_link` has rules. The models behind the numbers are described in docs/models.md.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from scenarios.errors import suggestion
from scenarios.loading.document import Key
from scenarios.schema.base import NotNegative, Part, Positive, PositiveInt
from scenarios.schema.devices import DeviceChoice, Slowdown
from scenarios.schema.links import LinkChoice


class Always(Part):
    """A device that never leaves."""

    pattern: Literal["always"] = Field(default="always", description="when the device is there")


class OnOff(Part):
    """A device that comes and goes: exponential times, in equilibrium from the start."""

    pattern: Literal["on_off"] = Field(default="on_off", description="when the device is there")
    mean_on_s: Positive = Field(description="mean time it stays")
    mean_off_s: Positive = Field(description="mean time it is away")


class PresenceTrace(Part):
    """Devices that come and go as a file says."""

    pattern: Literal["trace"] = Field(default="trace", description="when the device is there")
    file: Path = Field(description="CSV with the columns client, from_s, to_s; an empty to_s is the end")


Availability = Annotated[Always | OnOff | PresenceTrace, Field(discriminator="pattern")]


class FleetGroup(Part):
    """Clients of one kind."""

    count: PositiveInt = Field(description="how many")
    device: DeviceChoice = Field(default="instant", description="a preset, or seconds per batch")
    slowdown: Slowdown | None = Field(default=None, description="factor on the device's seconds")
    link: LinkChoice = Field(default="none", description="a preset, or rates and latency")
    via: str | None = Field(default=None, description="access point of `network` that these clients share")
    availability: Availability = Field(default=Always(), description="when these clients are there")


class AccessPoint(Part):
    """A shared bottleneck; its rate is divided max-min fairly among the transfers under way."""

    uplink_kbps: Positive | None = Field(default=None, description="rate up; unlimited if not given")
    downlink_kbps: Positive | None = Field(default=None, description="rate down; unlimited if not given")


class BrokerModel(Part):
    """The broker in virtual time; by default it takes no time and has the limits of a live mosquitto."""

    per_message_us: NotNegative = Field(default=0.0, description="work for each message that it delivers")
    per_byte_ns: NotNegative = Field(default=0.0, description="and for each byte of it")
    in_flight: PositiveInt = Field(default=100, description="messages under way to one client at once")
    queue_limit: PositiveInt = Field(
        default=20_000, description="messages waiting for one client; more are dropped without a word"
    )
    keepalive_s: Positive = Field(
        default=30.0, description="a vanished client is noticed after one and a half of these"
    )


class ServerModel(Part):
    """The server in virtual time; it does one computation at a time."""

    tail_batch_s: NotNegative = Field(default=0.0, description="each pass through the tail")
    tail_sample_s: NotNegative = Field(default=0.0, description="and each sample in it")
    update_s: NotNegative = Field(default=0.0, description="optimizer step of the tail")
    close_s: NotNegative = Field(default=0.0, description="average of the heads; evaluation takes no time")
    link: LinkChoice = Field(default="none", description="server to broker: a preset, or rates and latency")
    source: str = Field(default="", description="where the numbers come from")


class Network(Part):
    """What the devices share in virtual time."""

    access_points: dict[str, AccessPoint] = Field(default={}, description="shared bottlenecks by name")
    broker: BrokerModel = Field(default=BrokerModel(), description="its speed and limits")
    server: ServerModel = Field(default=ServerModel(), description="its speed and link")


def unknown_access_points(fleet: tuple[FleetGroup, ...], network: Network) -> Iterator[tuple[Key, str]]:
    """Say which groups are behind an access point that `network` does not have."""
    for number, group in enumerate(fleet):
        if group.via is not None and group.via not in network.access_points:
            near = suggestion(group.via, network.access_points, label="in network.access_points")
            yield ("fleet", number, "via"), f"unknown access point '{group.via}'{near}"
