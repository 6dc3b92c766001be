"""Links between a device and the broker: named presets, or written out. sim.network.link is their model."""

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from scenarios.schema.base import NotNegative, Part, Positive, form, preset


class Link(Part):
    """A device's link to the broker, with the same latency in both directions."""

    uplink_kbps: Positive | None = Field(
        default=None, description="rate up in 1000 bit/s, IP headers included; unlimited if not given"
    )
    downlink_kbps: Positive | None = Field(default=None, description="rate down; unlimited if not given")
    latency_ms: NotNegative = Field(default=0.0, description="mean time one way")
    jitter_ms: NotNegative = Field(default=0.0, description="standard deviation of the time one way")
    jitter: Literal["normal", "lognormal", "uniform"] = Field(
        default="normal", description="distribution of the time one way; never below 0"
    )
    loss: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of IP packets lost; TCP repeats them and slows down"
    )
    source: str = Field(default="", description="where the numbers come from")

    @model_validator(mode="after")
    def _lognormal_has_a_mean(self) -> "Link":
        if self.jitter_ms and self.jitter == "lognormal" and not self.latency_ms:
            raise ValueError("lognormal jitter needs a latency_ms above 0, its mean")
        return self


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
