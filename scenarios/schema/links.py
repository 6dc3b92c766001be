"""Links between a device and the broker: named presets, or written out. sim.network.links has their model."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import NotNegative, Part, Positive, form, preset

Share = Annotated[float, Field(ge=0, le=0.5)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""1000 bit/s; 0 is an outage."""


MOST_LOST = 0.5

Tcp = Literal["cubic", "reno"]
"""A congestion control. Linux has Cubic unless it is told otherwise."""


class GilbertElliott(Part):
    """Loss in bursts: a good and a bad state, each with its share of lost packets.

    Gilbert 1960, Elliott 1963. `tc netem loss gemodel P R 1-H 1-K` takes the same four numbers, in this
    order.
    """

    p: Annotated[float, Field(gt=0, le=1)] = Field(description="share of packets after which good turns bad")
    r: Annotated[float, Field(gt=0, le=1)] = Field(description="share of packets after which bad turns good")
    loss_in_bad: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share of packets lost in the bad state"
    )
    loss_in_good: Share = Field(default=0.0, description="share of packets lost in the good state")

    @property
    def mean(self) -> float:
        """Give the share of packets lost in the long run."""
        bad = self.p / (self.p + self.r)
        return bad * self.loss_in_bad + (1 - bad) * self.loss_in_good

    @model_validator(mode="after")
    def _carries_something(self) -> "GilbertElliott":
        if self.mean > MOST_LOST:
            raise ValueError(f"loses {self.mean:.2f} of all packets in the long run, more than {MOST_LOST}")
        return self


def _loss_form(value: object) -> str:
    return "bursts" if isinstance(value, dict | GilbertElliott) else "share"


LossChoice = Annotated[
    Annotated[Share, Tag("share")] | Annotated[GilbertElliott, Tag("bursts")], Discriminator(_loss_form)
]


class LinkState(Part):
    """What a link that changes is like for a while; what is not given is as in the link itself."""

    uplink_kbps: Rate | None = Field(default=None, description="rate up in 1000 bit/s; 0: an outage")
    downlink_kbps: Rate | None = Field(default=None, description="rate down; 0: an outage")
    latency_ms: NotNegative | None = Field(default=None, description="mean time one way")
    loss: Share | None = Field(default=None, description="share of IP packets lost")


class MarkovState(LinkState):
    """A state of a link that stays in it for an exponential time, then turns to any other one."""

    mean_s: Positive = Field(description="mean time in this state")


class Link(Part):
    """A device's link to the broker, with the same latency in both directions.

    With `trace` or `states` it changes as time goes.
    """

    uplink_kbps: Positive | None = Field(
        default=None, description="rate up in 1000 bit/s, IP headers included; unlimited if not given"
    )
    downlink_kbps: Positive | None = Field(default=None, description="rate down; unlimited if not given")
    latency_ms: NotNegative = Field(default=0.0, description="mean time one way")
    jitter_ms: NotNegative = Field(default=0.0, description="standard deviation of the time one way")
    jitter: Literal["normal", "lognormal", "uniform"] = Field(
        default="normal", description="distribution of the time one way; never below 0"
    )
    jitter_per: Literal["message", "packet"] = Field(
        default="message",
        description=(
            "what has its own time one way: a message, as where delays wander slowly, or each IP packet, as "
            "with tc netem, so that TCP meets the slowest of them; order is kept"
        ),
    )
    loss: LossChoice = Field(
        default=0.0,
        description="share of IP packets lost, or loss in bursts; TCP repeats them and slows down",
    )
    duty_cycle: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="share of time in which a direction may be busy, such as 0.01: after a message it rests",
    )
    trace: str | None = Field(
        default=None,
        description=(
            "rates, latency and loss over time: a shipped trace's name, or a CSV file with the column time_s "
            "and any of uplink_kbps, downlink_kbps, latency_ms, loss"
        ),
    )
    repeat: bool = Field(
        default=True, description="begin the trace again at its end; else its last row stays"
    )
    start: Literal["per_client", "together"] = Field(
        default="per_client",
        description=(
            "each client begins at its own place in the trace, drawn from the seed, or all begin at its "
            "start; without repeat they do"
        ),
    )
    states: tuple[MarkovState, ...] | None = Field(
        default=None, min_length=2, description="instead of a trace: a Markov chain of states"
    )
    source: str = Field(default="", description="where the numbers come from")

    @model_validator(mode="after")
    def _lognormal_has_a_mean(self) -> "Link":
        if self.jitter_ms and self.jitter == "lognormal" and not self.latency_ms:
            raise ValueError("lognormal jitter needs a latency_ms above 0, its mean")
        return self

    @model_validator(mode="after")
    def _changes_in_one_way(self) -> "Link":
        if self.trace is not None and self.states is not None:
            raise ValueError("takes trace or states, one of the two")
        if self.trace is None and (not self.repeat or self.start == "together"):
            raise ValueError("repeat and start go with a trace")
        for rate in ("uplink_kbps", "downlink_kbps"):
            if self.states and all(getattr(state, rate) == 0 for state in self.states):
                raise ValueError(f"{rate} is 0 in every state: nothing would ever arrive")
        return self

    @property
    def changes(self) -> bool:
        """Whether it is another link at another time."""
        return self.trace is not None or self.states is not None


def names_a_file(trace: str) -> bool:
    """Say whether a trace is given as a path, with a slash or ending in .csv; else it is a shipped one."""
    return "/" in trace or trace.endswith(".csv")


LINKS = {
    "none": Link(source="no network at all: nothing takes time"),
    "ethernet": Link(
        uplink_kbps=975_000,
        downlink_kbps=975_000,
        latency_ms=0.1,
        source="1 Gbit/s without Ethernet's own framing; latency assumed",
    ),
    "wifi": Link(
        uplink_kbps=15_000,
        downlink_kbps=30_000,
        latency_ms=2,
        jitter_ms=2,
        jitter="lognormal",
        source="rates and latency: profile 'Wi-Fi' of Firefox's developer tools; jitter assumed",
    ),
    "lte": Link(
        uplink_kbps=12_000,
        downlink_kbps=12_000,
        latency_ms=35,
        jitter_ms=10,
        jitter="lognormal",
        source="rates and round trip of 70 ms: profile 'LTE' of WebPageTest; jitter assumed",
    ),
    "3g": Link(
        uplink_kbps=768,
        downlink_kbps=1_600,
        latency_ms=150,
        jitter_ms=30,
        jitter="lognormal",
        source="rates and round trip of 300 ms: profile '3G' of WebPageTest; jitter assumed",
    ),
    "2g": Link(
        uplink_kbps=256,
        downlink_kbps=280,
        latency_ms=400,
        jitter_ms=80,
        jitter="lognormal",
        source="rates and round trip of 800 ms: profile '2G' of WebPageTest; jitter assumed",
    ),
    "nb-iot": Link(
        uplink_kbps=62,
        downlink_kbps=26,
        latency_ms=800,
        jitter_ms=300,
        jitter="lognormal",
        source="rates: what a category NB1 device (3GPP release 13) can sustain at best; the rest assumed",
    ),
    "lora-backhaul": Link(
        uplink_kbps=5.47,
        downlink_kbps=5.47,
        latency_ms=500,
        source="rate: LoRa at SF7 and 125 kHz; assumed: a gateway that carries IP and no duty cycle limit",
    ),
    "satellite": Link(
        uplink_kbps=5_000,
        downlink_kbps=25_000,
        latency_ms=300,
        jitter_ms=10,
        source="geostationary, round trip of 600 ms (APNIC Labs, 2022); rates and jitter assumed",
    ),
}

LinkChoice = Annotated[
    Annotated[str, *preset("link", LINKS)] | Annotated[Link, Tag("own")], Discriminator(form)
]


def link_of(choice: str | Link) -> Link:
    """Give the link that a scenario names or writes out."""
    return LINKS[choice] if isinstance(choice, str) else choice
