"""What the classes of the schema share: a strict base class, numbers with bounds, and named presets."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag

from scenarios.errors import suggestion

Key = tuple[str | int, ...]
"""Where a value stands in a scenario: names of mappings' keys, and places in lists."""

PositiveInt = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping of a scenario file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def form(value: object) -> str:
    """Give the tag of a value that is a preset's name or a mapping: "name" for text, else "own"."""
    return "name" if isinstance(value, str) else "own"


def preset(kind: str, presets: Mapping[str, Part]) -> tuple[AfterValidator, Any, Tag]:
    """Give what makes a text the name of a preset, to be unpacked into Annotated[str, ...].

    Args:
        kind: what the presets are, for messages.
        presets: all that can be named. An unknown name is a ValueError with the nearest known one.
    """

    def check(name: str) -> str:
        if name not in presets:
            raise ValueError(f"unknown {kind} '{name}'{suggestion(name, presets, label='known')}")
        return name

    return AfterValidator(check), Field(json_schema_extra={"enum": list(presets)}), Tag("name")
