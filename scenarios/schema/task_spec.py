"""What a scenario says of its task, and of how the task's data come to the clients."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from scenarios.schema.base import Part, Positive, PositiveInt

PLACES = ("path", "module", "data")
"""Keys of the task that say where something is on this machine."""


def _partition_form(value: object) -> str:
    return "mixture" if isinstance(value, dict | Dirichlet) else "name"


class Dirichlet(Part):
    """Clients of equal size, each with its own random class mixture."""

    dirichlet_alpha: Positive = Field(
        description="concentration of every class; small: each client has few classes, large: all are alike"
    )


Partition = Annotated[
    Annotated[Literal["iid", "natural", "local"], Tag("name")] | Annotated[Dirichlet, Tag("mixture")],
    Discriminator(_partition_form),
]


class TaskSpec(Part):
    """The task, and how its data are divided among the clients."""

    name: str = Field(
        default="digits28", description="a built-in task, or the name of your own one in `module`"
    )
    module: str | None = Field(
        default=None,
        description="your own task: a Python file, or an importable module, with `task() -> Task`",
    )
    path: Path | None = Field(default=None, description="folder of the data, for tasks that need one")
    data: Path | None = Field(
        default=None,
        description="for partition local: this device's own data, or a folder with a folder for each client",
    )
    partition: Partition = Field(
        description=(
            "iid: equal random shares; natural: an owner (writer, speaker) per client; local: each device "
            "has its own data; or a mixture"
        )
    )
    held_out: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.0,
        description=(
            "for partition local: share of each device's rows that is kept for evaluation, because the "
            "server has no test data"
        ),
    )
    batch_size: PositiveInt = Field(default=20, description="samples per step of a client")
