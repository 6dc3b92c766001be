"""What the classes of the schema are made of: a strict base, numbers with bounds, and named presets."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from scenarios.errors import suggestion

PositiveInt = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping of a scenario file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def form(value: object) -> str:
    """Tell a preset's name from a mapping that is written out; the tags of such unions."""
    return "name" if isinstance(value, str) else "own"


def check_preset(name: str, what: str, presets: Mapping[str, Part]) -> str:
    """Return `name` if it is a preset, else raise ValueError with the nearest one."""
    if name not in presets:
        raise ValueError(f"unknown {what} '{name}'{suggestion(name, presets, label='known')}")
    return name
