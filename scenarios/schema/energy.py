"""What a device draws, and its battery. sim.simulation.fleet.energy computes joules from it."""

from typing import Annotated

from pydantic import Field

from scenarios.schema.base import NotNegative, Part, Positive


class Power(Part):
    """Watts that a device draws; what it draws for something comes on top of `idle_w`."""

    idle_w: NotNegative = Field(default=0.0, description="watts always, while it is on")
    compute_w: NotNegative = Field(default=0.0, description="further watts while it computes")
    send_w: NotNegative = Field(default=0.0, description="further watts while its link up is busy")
    receive_w: NotNegative = Field(default=0.0, description="further watts while its link down is busy")
    per_byte_nj: NotNegative = Field(
        default=0.0, description="further nanojoules for each byte on its link, headers included"
    )
    source: str = Field(default="", description="where the numbers come from")


class Battery(Part):
    """A battery; the device is away while it is empty."""

    capacity_wh: Positive = Field(description="watt hours when it is full")
    initial: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="share that it has when the run begins"
    )
    charge_w: NotNegative = Field(
        default=0.0, description="watts that always charge it, as a small panel does"
    )
    returns_at: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.1, description="share to which an empty battery is charged before the device is on again"
    )
