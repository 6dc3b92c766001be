"""What one direction of a link is like at a moment."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

from broker.wire.link_bytes import ACKNOWLEDGED_SEGMENTS, FULL_PACKET_BYTES
from scenarios.schema.links import GilbertElliott, Link, LinkState

_standard_normal = NormalDist().inv_cdf


@dataclass(frozen=True, slots=True)
class Path:
    """What all devices on the same kind of link share, for one direction.

    Attributes:
        bytes_per_s: rate for packets with their headers; infinite if unlimited, 0 in an outage.
        segment_s: time a full packet takes at that rate.
        latency_s: mean time one way.
        one_way_s: quantile function of the time one way; None where that does not vary.
        loss: probability that a packet is lost, in the long run.
        bursts: how losses follow each other; None: each packet is lost by chance alone.
        rest: how long it must be silent after a message, in times of what that took.
        round_trip_s: of two full packets and their acknowledgement on an idle link.
        instant: whether nothing takes time on it.
        jitter_per_packet: whether each packet's time one way is drawn, not each message's.
    """

    bytes_per_s: float
    segment_s: float
    latency_s: float
    one_way_s: Callable[[float], float] | None
    loss: float
    bursts: GilbertElliott | None
    rest: float
    round_trip_s: float
    instant: bool
    jitter_per_packet: bool = False


AS_IT_IS = LinkState()


@functools.lru_cache(maxsize=4096)
def path_of(link: Link, direction: Literal["up", "down"], state: LinkState = AS_IT_IS) -> Path:
    """Give one direction of a link in seconds and bytes, while it is in a state."""
    own, now = (
        (link.uplink_kbps, state.uplink_kbps)
        if direction == "up"
        else (link.downlink_kbps, state.downlink_kbps)
    )
    kbps = own if now is None else now
    latency_s = (link.latency_ms if state.latency_ms is None else state.latency_ms) / 1000
    loss = link.loss if state.loss is None else state.loss
    bursts = loss if isinstance(loss, GilbertElliott) else None
    segment_s = FULL_PACKET_BYTES * 8 / (kbps * 1000) if kbps else 0.0
    round_trip_s = 2 * latency_s + ACKNOWLEDGED_SEGMENTS * segment_s
    one_way_s = _with_jitter(latency_s, link.jitter_ms / 1000, link.jitter)
    return Path(
        bytes_per_s=math.inf if kbps is None else FULL_PACKET_BYTES / segment_s if kbps else 0.0,
        segment_s=segment_s,
        latency_s=latency_s,
        one_way_s=one_way_s,
        loss=loss.mean if isinstance(loss, GilbertElliott) else loss,
        bursts=bursts,
        rest=1 / link.duty_cycle - 1,
        round_trip_s=round_trip_s,
        instant=not (link.changes or kbps is not None or latency_s or link.jitter_ms or loss),
        jitter_per_packet=link.jitter_per == "packet" and one_way_s is not None,
    )


def _with_jitter(
    mean_s: float, deviation_s: float, distribution: Literal["normal", "lognormal", "uniform"]
) -> Callable[[float], float] | None:
    """Give the quantile function of times with this mean and standard deviation, never below 0."""
    if deviation_s == 0.0 or (distribution == "lognormal" and mean_s == 0.0):
        return None
    match distribution:
        case "normal":
            return lambda probability: max(0.0, mean_s + deviation_s * _standard_normal(probability))
        case "uniform":
            half_width_s = math.sqrt(3) * deviation_s
            return lambda probability: max(0.0, mean_s + half_width_s * (2 * probability - 1))
        case "lognormal":
            variance = math.log1p((deviation_s / mean_s) ** 2)
            sigma, mu = math.sqrt(variance), math.log(mean_s) - variance / 2
            return lambda probability: math.exp(mu + sigma * _standard_normal(probability))
