"""How fast devices compute, as named presets or written out, and what slows them down.

sim.simulation.fleet.device_model computes times from it.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from scenarios.schema.base import NotNegative, Part, Positive, PositiveInt, form, preset
from scenarios.schema.energy import Power
from scenarios.schema.task_spec import Layer


class DeviceProfile(Part):
    """Seconds that a device takes for one batch. A batch with half the samples takes half the seconds."""

    batch_size: PositiveInt = Field(default=20, description="samples of the batch that was timed")
    forward_s: NotNegative = Field(default=0.0, description="the batch through the head")
    encode_s: NotNegative = Field(default=0.0, description="activations to bytes")
    decode_s: NotNegative = Field(default=0.0, description="bytes to the gradient of the activations")
    backward_s: NotNegative = Field(default=0.0, description="gradient through the head, and optimizer step")
    top_s: NotNegative | None = Field(
        default=None,
        description=(
            "the batch's features, decoded, through the last layers and back, and their gradient encoded; "
            "for method: u_shape, in which they take no time if it is not given"
        ),
    )
    whole_model_s: NotNegative | None = Field(
        default=None,
        description="the batch through the whole model and back, and optimizer step; for method: fedavg",
    )
    cut: Layer | None = Field(
        default=None,
        description=(
            "the early cut that it was timed with; not given: it was timed with the whole head, of which a "
            "group with `cut` takes a share"
        ),
    )
    ram_mib: PositiveInt | None = Field(
        default=None,
        description=(
            "memory of the board in MiB; a head, batch and codec that need more are refused; "
            "not given: they are not compared"
        ),
    )
    power: Power | None = Field(default=None, description="what the device draws; not given: not counted")
    source: str = Field(default="", description="where the numbers come from")


# The presets are for the FEMNIST CNN: for its head, and for the whole model. Other tasks need other profiles.
DEVICES = {
    "instant": DeviceProfile(whole_model_s=0.0, source="computes in no time"),
    "x86-core": DeviceProfile(
        forward_s=0.0064,
        encode_s=0.0026,
        decode_s=0.0003,
        backward_s=0.013,
        whole_model_s=0.029,
        source="measured: one core of a 2.3 GHz Xeon server, torch 2.13; pq, 1152 sub-vectors, 2 centroids"
        "; assumed: the whole model takes 1.5 times the head, the ratio measured on such a core",
    ),
    "raspberry-pi-5": DeviceProfile(
        forward_s=0.029,
        encode_s=0.0086,
        decode_s=0.0011,
        backward_s=0.058,
        whole_model_s=0.097,
        ram_mib=4096,  # sold with 1 to 16 GiB
        power=Power(
            idle_w=3.0,
            compute_w=5.0,
            send_w=0.7,
            receive_w=0.4,
            source="assumed: above raspberry-pi-4",
        ),
        source="assumed: raspberry-pi-4 times 0.54, as sysbench's CPU test has it (5901 to 10945 events/s)",
    ),
    "raspberry-pi-4": DeviceProfile(
        forward_s=0.054,
        encode_s=0.016,
        decode_s=0.002,
        backward_s=0.108,
        whole_model_s=0.18,
        ram_mib=4096,  # sold with 1 to 8 GiB
        power=Power(
            idle_w=2.7,
            compute_w=3.7,
            send_w=0.7,
            receive_w=0.4,
            source="published measurements, Raspberry Pi Dramble: 2.7 W idle, 6.4 W with four busy cores"
            "; the radio's are assumed",
        ),
        source="assumed: 0.43 GFLOP forward and twice that backward, at the 8 GFLOP/s of Linpack on a 64-bit"
        " system, likewise 1.43 GFLOP for the whole model; encode and decode six times those of x86-core",
    ),
    "raspberry-pi-3b-plus": DeviceProfile(
        forward_s=0.13,
        encode_s=0.038,
        decode_s=0.0048,
        backward_s=0.26,
        whole_model_s=0.43,
        ram_mib=1024,
        power=Power(
            idle_w=1.9,
            compute_w=3.2,
            send_w=0.7,
            receive_w=0.4,
            source="published measurements, Raspberry Pi Dramble: 1.9 W idle, 5.1 W with four busy cores"
            "; the radio's are assumed",
        ),
        source="assumed: raspberry-pi-4 times 2.4, as sysbench's CPU test has it (5901 to 2459 events/s)",
    ),
    "raspberry-pi-zero-2w": DeviceProfile(
        forward_s=0.18,
        encode_s=0.054,
        decode_s=0.0067,
        backward_s=0.36,
        whole_model_s=0.6,
        ram_mib=512,
        power=Power(
            idle_w=0.6,
            compute_w=1.8,
            send_w=0.7,
            receive_w=0.4,
            source="published measurement, CNX Software 2021: 120 mA at 5 V idle; the others are assumed",
        ),
        source="assumed: raspberry-pi-4 times 3.36, as sysbench's CPU test has it (5901 to 2459 events/s"
        " on the same cores at 1.4 GHz, scaled to 1 GHz)",
    ),
}


DeviceChoice = Annotated[
    Annotated[str, *preset("device", DEVICES)] | Annotated[DeviceProfile, Tag("own")], Discriminator(form)
]


def device_of(choice: str | DeviceProfile) -> DeviceProfile:
    """Give the profile of a device that a scenario names or writes out."""
    return DEVICES[choice] if isinstance(choice, str) else choice


Drawn = Annotated[
    Literal["per_step", "per_client"],
    Field(description="per_step: a new factor for each computation; per_client: one for the whole run"),
]


class LognormalSlowdown(Part):
    """Factor exp(sigma N(0, 1)), median 1."""

    distribution: Literal["lognormal"] = Field(default="lognormal", description="of the factor")
    sigma: Positive = Field(description="standard deviation of the factor's logarithm")
    drawn: Drawn = "per_step"


class ParetoSlowdown(Part):
    """Pareto distributed factor of at least 1."""

    distribution: Literal["pareto"] = Field(default="pareto", description="of the factor")
    shape: Positive = Field(description="tail index: the factor exceeds x with probability x^-shape")
    drawn: Drawn = "per_step"


class TraceSlowdown(Part):
    """Factors from a file, one row for each computation; every client starts at another row."""

    distribution: Literal["trace"] = Field(default="trace", description="of the factor")
    file: Path = Field(description="CSV with the column factor")


Slowdown = Annotated[LognormalSlowdown | ParetoSlowdown | TraceSlowdown, Field(discriminator="distribution")]
