"""The fleet, its links, and the speed of broker and server in virtual time.

A live run has real links, devices, brokers and presence. It reads two things of this: the clients' names,
and their links if `flows.by_link` has rules. docs/models.md describes the models behind the numbers.
"""

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scenarios.errors import suggestion
from scenarios.schema.base import Key, NotNegative, Part, Positive, PositiveInt
from scenarios.schema.devices import DeviceChoice, Slowdown
from scenarios.schema.energy import Battery
from scenarios.schema.links import Link, LinkChoice, MarkovState, Tcp
from scenarios.schema.task_spec import Layer


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
    repeat: bool = Field(
        default=False, description="begin the file again after the latest of its times, for all its clients"
    )


Availability = Annotated[Always | OnOff | PresenceTrace, Field(discriminator="pattern")]


ClientName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
"""A name that may stand in a topic, see broker.wire.topics."""
SERVER = "server"
"""No client is called so, since at the broker the server is."""
MAX_NAMES_TOLD = 8


class FleetGroup(Part):
    """Clients with the same kind of device, link and presence: so many of them, or each by its name."""

    count: PositiveInt | None = Field(default=None, description="how many; they are named c0, c1, ...")
    names: tuple[ClientName, ...] | None = Field(
        default=None, min_length=1, description="their names, instead of `count`"
    )
    device: DeviceChoice = Field(default="instant", description="a preset, or seconds per batch")
    slowdown: Slowdown | None = Field(default=None, description="factor on the device's seconds")
    link: LinkChoice = Field(default="none", description="a preset, or rates and latency")
    via: str | None = Field(default=None, description="access point of `network` that these clients share")
    availability: Availability = Field(default=Always(), description="when these clients are online")
    battery: Battery | None = Field(default=None, description="of each of them; not given: mains")
    cut: Layer | None = Field(
        default=None,
        description=(
            "for method split: an earlier cut for slow devices: they have the head up to this layer, and the "
            "server does the rest of it for them; not given: they have the whole head"
        ),
    )

    @property
    def size(self) -> int:
        """Clients in the group."""
        return self.count or len(self.names or ())

    @property
    def link_name(self) -> str:
        """The name of their link, or of the trace that it follows."""
        return self.link if isinstance(self.link, str) else str(self.link.trace or "of its own")

    @property
    def kind(self) -> str:
        """What its clients are, such as "raspberry-pi-4, 3g"; empty if nothing of them takes time."""
        device = self.device if isinstance(self.device, str) else "own device"
        link = self.link if isinstance(self.link, str) else f"link {self.link_name}"
        via, cut = f"via {self.via}" if self.via else "", f"cut {self.cut}" if self.cut else ""
        words = (device, link, via, cut)
        return ", ".join(word for word in words if word not in ("instant", "none", ""))

    @model_validator(mode="after")
    def _count_or_names(self) -> "FleetGroup":
        if (self.count is None) == (self.names is None):
            raise ValueError("takes count or names, one of the two")
        return self


def names_of(fleet: Sequence[FleetGroup]) -> list[str]:
    """Name the clients of a fleet, in its order.

    The clients of groups with a `count` are numbered through all such groups: c00 to c49 for 50 of them.
    Clients with names of their own do not change these numbers.
    """
    return list(_names(tuple(group.names or group.size for group in fleet)))


@functools.lru_cache(maxsize=2)  # a run asks ten times, and a fleet may have a million
def _names(groups: tuple[tuple[str, ...] | int, ...]) -> tuple[str, ...]:
    counted = sum(group for group in groups if isinstance(group, int))
    width, numbers = len(str(counted - 1)), iter(range(counted))
    return tuple(
        name
        for group in groups
        for name in (
            [f"c{next(numbers):0{width}}" for _ in range(group)] if isinstance(group, int) else group
        )
    )


def tell_names(names: Sequence[str]) -> str:
    """Give the end of a sentence that says who the fleet is: all names, or of many the first and the last."""
    told = list(names) if len(names) <= MAX_NAMES_TOLD else [*names[:3], "...", names[-1]]
    return f"the fleet has {len(names)} clients: {', '.join(told)}"


class AccessPoint(Part):
    """A link that devices share; transfers under way get max-min fair shares of its rate."""

    uplink_kbps: Positive | None = Field(default=None, description="rate up; unlimited if not given")
    downlink_kbps: Positive | None = Field(default=None, description="rate down; unlimited if not given")
    trace: str | None = Field(
        default=None,
        description="rates over time: a shipped trace's name, or a CSV file; not its latency and loss",
    )
    repeat: bool = Field(
        default=True, description="begin the trace again at its end; else its last row stays"
    )
    states: tuple[MarkovState, ...] | None = Field(
        default=None, min_length=2, description="instead of a trace: a Markov chain of rates"
    )

    @property
    def link(self) -> Link:
        """The same as a link of nobody: its rates over time."""
        return Link(
            uplink_kbps=self.uplink_kbps,
            downlink_kbps=self.downlink_kbps,
            trace=self.trace,
            repeat=self.repeat,
            start="per_client" if self.trace is None else "together",
            states=self.states,
        )

    @model_validator(mode="after")
    def _is_a_link(self) -> "AccessPoint":
        assert self.link
        return self


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
    head_sample_s: NotNegative = Field(
        default=0.0,
        description=(
            "time for a sample through the whole head and back; of it the share that the server does for "
            "devices with an early cut"
        ),
    )
    link: LinkChoice = Field(default="none", description="server to broker: a preset, or rates and latency")
    source: str = Field(default="", description="where the numbers come from")


class Network(Part):
    """What devices share in virtual time: access points, broker, server."""

    access_points: dict[str, AccessPoint] = Field(default={}, description="shared bottlenecks by name")
    broker: BrokerModel = Field(default=BrokerModel(), description="its speed and limits")
    server: ServerModel = Field(default=ServerModel(), description="its speed and link")
    tcp: Tcp = Field(
        default="cubic",
        description="congestion control of all connections; it matters where packets are lost",
    )


def unknown_access_points(fleet: tuple[FleetGroup, ...], network: Network) -> Iterator[tuple[Key, str]]:
    """Give a message for each group of clients behind an access point that `network` does not have."""
    for number, group in enumerate(fleet):
        if group.via is not None and group.via not in network.access_points:
            near = suggestion(group.via, network.access_points, label="in network.access_points")
            yield ("fleet", number, "via"), f"unknown access point '{group.via}'{near}"


def taken_names(fleet: tuple[FleetGroup, ...]) -> Iterator[tuple[Key, str]]:
    """Give a message for each name of a client that the server or a client before it has."""
    seen = set(names_of([group for group in fleet if group.names is None]))
    for number, group in enumerate(fleet):
        for place, name in enumerate(group.names or ()):
            if name == SERVER:
                yield ("fleet", number, "names", place), f"'{name}' is the server's own name"
            if name in seen:
                yield ("fleet", number, "names", place), f"two clients are called '{name}'"
            seen.add(name)
