"""What a run comes to: the content of summary.json, which reports, sweeps and studies read again.

The keys are stable: a key may be added, none is renamed, moved or taken away.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

from server_node.vocabulary.ledger import CONTROL, FLOWS, U_SHAPE_FLOWS, Flow, Ledger, Rung

Better = Literal["higher", "lower"]


class Metric(TypedDict):
    """The task's metric, on test data or what devices keep for it; None when nothing was evaluated."""

    name: str
    better: NotRequired[Better]  # which metrics are better; higher if it is not said
    final: float | None
    best: float | None


class FlowBytes(TypedDict):
    """What a flow carried in bytes, see server_node.vocabulary.ledger.Flow."""

    payload: int
    wire: int
    raw_float32: NotRequired[int]  # not of `control`, which carries no tensor


class FlowRatio(TypedDict):
    """How many times fewer bytes a flow took; None where there is nothing to divide by."""

    wire_vs_float32: float | None
    paper_64bit: NotRequired[float | None]  # of activations_up only


class FeatureRatios(TypedDict, total=False):
    """The ratio of each flow that is in a U-shape only."""

    features_down: FlowRatio
    feature_gradient_up: FlowRatio


class Ratios(FeatureRatios):
    """The ratio of each flow, and of all bytes of both directions together."""

    activations_up: FlowRatio
    gradient_down: FlowRatio
    head_update_up: FlowRatio
    head_state_down: FlowRatio
    total_both_directions: float | None


class LinkBytes(TypedDict):
    """Bytes of IP packets on the devices' links, see broker.wire.link_bytes."""

    up: int
    down: int
    ratio: float | None  # how many times fewer bytes than all tensors as float32
    how: Literal["modelled", "counted"]  # from the messages of a live run, or on simulated links


class Refusals(TypedDict):
    """Refused messages of one client."""

    count: int
    last: str  # why the last one was refused


class MessageCounts(TypedDict):
    """Numbers of messages, see server_node.vocabulary.ledger.Ledger."""

    sent: int
    received: int
    rejected: int
    rejected_by_reason: dict[str, int]
    refused: NotRequired[dict[str, Refusals]]  # by client; all that are not in the fleet are "strangers"
    duplicates: int
    discarded_late: int


class MostDrawn(TypedDict):
    """The client that drew most."""

    client: str
    joules: float


class EnergyDrawn(TypedDict):
    """What the devices of a simulated run drew, of those whose power is known."""

    joules: float
    joules_by_use: dict[str, float]  # idle, computing, sending, receiving
    joules_of_a_client: float  # mean
    most: MostDrawn
    clients: int
    times_empty: int  # how often a battery was


class RungUse(TypedDict):
    """What went on with a rung of `flows.adaptive`, see server_node.vocabulary.ledger.Rung."""

    answered: int
    late: int
    payload: int


class Summary(TypedDict):
    """Totals of a run."""

    scenario: str
    task: str
    mode: str  # live or simulate
    seed: int
    reason: str  # complete, stopped, or what ended it
    rounds: int
    metric: Metric
    clients: int
    client_steps: int
    client_steps_per_second: float
    wall_seconds: float
    training_seconds: float  # without the time in which the fleet gathered
    virtual_seconds: float | None  # None when it ran live
    bytes: dict[str, FlowBytes]  # by flow: FLOWS and CONTROL, in a U-shape U_SHAPE_FLOWS, too
    ratio: Ratios
    links: NotRequired[LinkBytes]  # runs of earlier versions have none
    messages: MessageCounts
    network: NotRequired[dict[str, int]]  # counts of the modelled network, when it was simulated
    rungs: NotRequired[list[RungUse]]  # with flows.adaptive: of its ladder, the finest first
    energy: NotRequired[EnergyDrawn]  # when it was simulated, and the power of devices is known
    checkpoint_error: NotRequired[str]  # why the last checkpoint is missing, when it could not be written
    damaged_checkpoints: NotRequired[
        list[str]
    ]  # which were there at the start and could not be used, and why


def bytes_of(name: str, flow: Flow) -> FlowBytes:
    """Give the bytes of a flow for the summary."""
    carried: FlowBytes = {"payload": flow.payload_bytes, "wire": flow.wire_bytes}
    if name != CONTROL:
        carried["raw_float32"] = flow.raw_float32_bytes
    return carried


def rungs_of(rungs: Sequence[Rung]) -> list[RungUse]:
    """Give the counts of each rung for the summary."""
    return [{"answered": each.answered, "late": each.late, "payload": each.payload_bytes} for each in rungs]


def ratios_of(ledger: Ledger) -> Ratios:
    """Give the ratios of all flows for the summary."""
    flows = ledger.flows
    activations_up = _ratio_of(flows["activations_up"])
    activations_up["paper_64bit"] = _ratio(*ledger.paper_bits)
    return {
        "activations_up": activations_up,
        "gradient_down": _ratio_of(flows["gradient_down"]),
        "head_update_up": _ratio_of(flows["head_update_up"]),
        "head_state_down": _ratio_of(flows["head_state_down"]),
        **_ratios_of_features(flows),
        "total_both_directions": _ratio(_raw_bytes(ledger), sum(flow.wire_bytes for flow in flows.values())),
    }


def links_of(ledger: Ledger, up: int, down: int, *, simulated: bool) -> LinkBytes:
    """Give what the devices' links have carried up and down for the summary."""
    ratio = _ratio(_raw_bytes(ledger), up + down)
    return {"up": up, "down": down, "ratio": ratio, "how": "counted" if simulated else "modelled"}


def _raw_bytes(ledger: Ledger) -> int:
    return sum(flow.raw_float32_bytes for flow in ledger.flows.values())


def _ratios_of_features(flows: Mapping[str, Flow]) -> FeatureRatios:
    if not flows.keys() >= set(U_SHAPE_FLOWS):
        return {}
    down, up = (_ratio_of(flows[name]) for name in U_SHAPE_FLOWS)
    return {"features_down": down, "feature_gradient_up": up}


def _ratio_of(flow: Flow) -> FlowRatio:
    return {"wire_vs_float32": _ratio(flow.raw_float32_bytes, flow.wire_bytes)}


def _ratio(before: float, after: float) -> float | None:
    ratio = before / after if after else math.nan
    return round(ratio, 4) if math.isfinite(ratio) else None


def best_of(metrics: Collection[float], better: Better) -> float | None:
    """Give the best of some metrics; None if there are none."""
    return (max if better == "higher" else min)(metrics, default=None)


def total_wire_bytes(summary: Summary) -> int:
    """Sum up the bytes of all flows, both directions."""
    return sum(flow["wire"] for flow in summary["bytes"].values())


def total_link_bytes(summary: Summary) -> int | None:
    """Sum up the bytes on the devices' links, both directions; None in runs of earlier versions."""
    links = summary.get("links")
    return links["up"] + links["down"] if links else None


def wire_bytes_so_far(row: Mapping[str, Any]) -> int:
    """Sum up a round's row: bytes of all flows, both directions, since the run began."""
    return wire_bytes_in(row, (*FLOWS, *U_SHAPE_FLOWS, CONTROL))


def wire_bytes_in(row: Mapping[str, Any], flows: Sequence[str]) -> int:
    """Sum up a round's row: bytes of some flows since the run began; a flow that the run has not counts 0."""
    return sum(row.get(f"{name}_wire_bytes", 0) for name in flows)


NAMED = 5
"""So many clients whose messages were refused are named."""


def refusals(summary: Summary) -> str:
    """Say whose messages were refused, the worst first: the last thing to be seen of a run; empty if none."""
    messages = summary["messages"]
    by_count = sorted(messages.get("refused", {}).items(), key=lambda item: -item[1]["count"])
    if not by_count:
        return ""
    lines = [f"{messages['rejected']} messages were refused; {summary['client_steps']} client steps counted:"]
    lines += [f"  {client}: {of['count']} refused, the last: {of['last']}" for client, of in by_count[:NAMED]]
    lines += [f"  and {len(by_count) - NAMED} more clients"] if len(by_count) > NAMED else []
    return "\n".join(lines)
