"""What the classes of the schema share: a strict base class, numbers with bounds, and named presets."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Tag

from broker.urls import Address
from scenarios.errors import suggestion

Key = tuple[str | int, ...]
"""Where a value stands in a scenario: names of mappings' keys, and places in lists."""

Problem = tuple[Key, str]
"""A key, and what is wrong with it."""

PositiveInt = Annotated[int, Field(ge=1)]
NotNegativeInt = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Part(BaseModel):
    """A mapping of a scenario file: immutable, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def without_defaults(part: BaseModel) -> dict[str, Any]:
    """Give what a part of a scenario says beyond its defaults, as plain values, in canonical form.

    What tells kinds apart (`codec: pq`) stays, although it is each kind's default.
    """
    said: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        is_tag = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
        if is_tag or field.is_required() or field.default_factory is not None or value != field.default:
            said[field.alias or name] = _plain(value)
    return said


def _plain(value: Any) -> Any:
    match value:
        case BaseModel():
            return without_defaults(value)
        case Address():
            return value.without_password
        case _ if is_dataclass(value):  # a codec
            said = ((each.name, each.default, getattr(value, each.name)) for each in fields(value))
            return {name: _plain(own) for name, usual, own in said if name == "codec" or own != usual}
        case tuple() | list():
            return [_plain(item) for item in value]
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            return str(value)


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
