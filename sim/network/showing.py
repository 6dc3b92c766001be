"""What the trace shows of messages on devices' links."""

from broker.wire.messages import Activations, Assignment, FeatureGradient, Features, Gradient, HeadUpdate
from sim.chrome_trace import Trace
from sim.network.endpoint import InFlight


def show(trace: Trace, lane: int, direction: str, in_flight: InFlight, start_s: float, end_s: float) -> None:
    """Put a message's wait and transfer on the trace if it carries a tensor.

    Args:
        trace: takes the spans.
        lane: of the device.
        direction: "uplink" or "downlink".
        in_flight: the message.
        start_s: when it began to leave.
        end_s: when it arrived.
    """
    match in_flight.publish.message:
        case Assignment(round=number) | HeadUpdate(round=number):
            details = {"round": number, "bytes": in_flight.wire_bytes}
        case Activations() | Features() | FeatureGradient() | Gradient() as message:
            details = {"round": message.round, "step": message.step, "bytes": in_flight.wire_bytes}
        case _:
            return
    trace.span(lane, "queue", in_flight.asked_s, start_s, **details)
    trace.span(lane, direction, start_s, end_s, **details)
