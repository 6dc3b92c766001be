"""The reference of scenario files, made from the schema: a page of every key, a JSON Schema for editors."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from scenarios.loading.explaining.explain import allowed
from scenarios.loading.explaining.json_schema import Schema, tag_of, tree_of
from scenarios.schema.devices import DEVICES
from scenarios.schema.links import LINKS, GilbertElliott
from scenarios.schema.scenario import Scenario

HEAD = """# Reference of scenario files

`fedlite scenarios reference` writes this page from the schema that also checks your files.
[Scenarios](scenarios.md) explains what the keys are for. For completion and checks in an editor, write the
schema with `fedlite scenarios schema --to scenario.schema.json` and begin a file with

    # yaml-language-server: $schema=scenario.schema.json

A key without a default is required. Beside these keys a file may have `extends` (a shipped scenario or a
file, which it continues) and `sweep` (the values that `fedlite sweep` tries).
"""

CODEC = "codec"
"""Key that chooses what a flow is coded by."""

_SHORT = 60
"""Letters of a default that is shown; a longer one is that of each key below it. So it is with mappings."""


def reference() -> str:
    """Write the page."""
    lines = [HEAD]
    places: dict[str, tuple[Schema, list[Place]]] = {}  # the same codec may stand at many
    for place, schema in _sections("", tree_of(Scenario)):
        places.setdefault(json.dumps(schema), (schema, []))[1].append(place)
    flows = {place.path for _, of in places.values() for place in of if place.tag == CODEC}
    for schema, of in places.values():
        lines += [*_heading(of, flows), *_table(schema), ""]
    lines += ["## Presets of links\n", *_links(), "", "## Presets of devices\n", *_devices(), ""]
    return "\n".join(lines)


LAYERS = {"cut", "second_cut"}
"""Keys whose value is a layer's name."""


def editor_schema() -> dict[str, Any]:
    """Give a JSON Schema of files: any key may be missing, since a file may extend another one."""
    schema = Scenario.model_json_schema()
    _require_nothing(schema)
    schema["properties"]["extends"] = {"type": "string", "description": "a shipped scenario, or a file"}
    schema["properties"]["sweep"] = {"type": "object", "description": "key paths, and the values to try"}
    profile = {"type": "string", "pattern": r"\.yaml$", "description": "a file of `fedlite calibrate`"}
    device = schema["$defs"]["FleetGroup"]["properties"]["device"]
    device["anyOf"].append(profile)
    network = schema["$defs"]["Network"]["properties"]
    network["server"] = {"anyOf": [network["server"], profile]}
    for part in schema["$defs"].values():
        for key in LAYERS & part.get("properties", {}).keys():  # those of nn.Sequential are numbers
            part["properties"][key] = {"anyOf": [part["properties"][key], {"type": "integer"}]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _require_nothing(schema: Any) -> None:
    """Take out what is required. Of a choice several members may fit then, so any will do."""
    if isinstance(schema, dict):
        schema.pop("required", None)
        if "oneOf" in schema:
            schema["anyOf"] = schema.pop("oneOf")
            schema.pop("discriminator", None)
        for child in schema.values():
            _require_nothing(child)
    elif isinstance(schema, list):
        for child in schema:
            _require_nothing(child)


class Place(NamedTuple):
    """Where a mapping with keys stands.

    Attributes:
        path: of its key; empty for the file itself.
        tag: of several mappings that may stand there, the key that chooses one; may be empty.
        chosen: what that key says.
    """

    path: str
    tag: str = ""
    chosen: str = ""

    def __str__(self) -> str:
        return self.path + (f", {self.tag}: {self.chosen}" if self.tag else "")


def _sections(path: str, schema: Schema) -> Iterator[tuple[Place, Schema]]:
    """Give every mapping with keys: its place, and its schema."""
    if "properties" in schema:
        yield Place(path), schema
        yield from _below(path, schema)
    elif "items" in schema:
        yield from _sections(f"{path}[]", schema["items"])
    elif isinstance(schema.get("additionalProperties"), dict):
        yield from _sections(f"{path}.NAME", schema["additionalProperties"])
    tag = tag_of(schema)
    for member in schema.get("oneOf", ()):
        if tag:
            yield Place(path, tag, member["properties"][tag]["const"]), member
            yield from _below(path, member)
        else:
            yield from _sections(path, member)


def _below(path: str, schema: Schema) -> Iterator[tuple[Place, Schema]]:
    for key, child in schema["properties"].items():
        yield from _sections(f"{path}.{key}" if path else key, child)


def _heading(places: Sequence[Place], flows: set[str]) -> Iterator[str]:
    """Name a mapping, and say where it may stand; a codec may at many flows.

    Args:
        places: of the mapping.
        flows: the paths of all flows.
    """
    first = places[0]
    if first.tag != CODEC:
        yield f"## {str(first) or 'The file'}\n"
        if len(places) > 1:
            yield f"The same: {', '.join(f'`{other}`' for other in places[1:])}.\n"
        return
    yield f"## {CODEC}: {first.chosen}\n"
    names = dict.fromkeys(place.path.rpartition(".")[2] for place in places)
    if len(places) == len(flows):
        yield "Every flow takes it.\n"
    elif len(places) == sum(flow.rpartition(".")[2] in names for flow in flows):
        yield f"Flows that take it: {', '.join(f'`{name}`' for name in names)}.\n"
    else:
        yield f"Flows that take it: {', '.join(f'`{place.path}`' for place in places)}.\n"


def _table(schema: Schema) -> Iterator[str]:
    if words := schema.get("description"):
        yield f"{_paragraph(words)}\n"
    yield "| key | value | default | meaning |"
    yield "|---|---|---|---|"
    needed, told = schema.get("required", ()), _attributes(schema.get("description", ""))
    for key, child in schema["properties"].items():
        default = "" if key in needed or "default" not in child else _default(child["default"])
        words = child.get("description") or told.get(key, "")
        value = allowed(child, (key,))
        if "properties" in child and len(value) > _SHORT:
            value = "a mapping, see below"
        yield _row(f"`{key}`", value, default, _paragraph(words))


def _attributes(docstring: str) -> dict[str, str]:
    """Give what a codec's docstring says of its attributes."""
    _, _, below = docstring.partition("Attributes:\n")
    return dict(re.findall(r"^\s+(\w+): ((?:.|\n(?!\s*\w+: |\n))*)", below, flags=re.MULTILINE))


def _default(value: object) -> str:
    if value is None:
        return "none"
    text = json.dumps(value)
    return f"`{text}`" if len(text) <= _SHORT else "see below"


def _paragraph(words: str) -> str:
    return " ".join(words.split("\n\n", maxsplit=1)[0].split())


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _links() -> Iterator[str]:
    yield "Latency is one way. `fedlite links list` shows the shipped traces as well.\n"
    yield "| link | up, kbit/s | down, kbit/s | latency, ms | jitter, ms | loss | source |"
    yield "|---|---|---|---|---|---|---|"
    for name, link in LINKS.items():
        up, down = (f"{rate:g}" if rate else "unlimited" for rate in (link.uplink_kbps, link.downlink_kbps))
        jitter = f"{link.jitter_ms:g}, {link.jitter}" if link.jitter_ms else "0"
        loss = "in bursts" if isinstance(link.loss, GilbertElliott) else f"{link.loss:g}"
        yield _row(f"`{name}`", up, down, f"{link.latency_ms:g}", jitter, loss, link.source)


def _devices() -> Iterator[str]:
    yield "Seconds for a batch of 20 of the FEMNIST CNN; other tasks need profiles of `fedlite calibrate`.\n"
    phases = ("forward_s", "encode_s", "decode_s", "backward_s", "whole_model_s")
    watts = ("idle_w", "compute_w", "send_w", "receive_w")
    yield _row("device", *phases, "ram_mib", *watts, "source")
    yield _row(*["---"] * (3 + len(phases) + len(watts)))
    for name, profile in DEVICES.items():
        powers = ["" if profile.power is None else f"{getattr(profile.power, each):g}" for each in watts]
        sources = [profile.source, f"power: {profile.power.source}" if profile.power else ""]
        seconds = [f"{value:g}" if (value := getattr(profile, each)) is not None else "" for each in phases]
        memory = "" if profile.ram_mib is None else str(profile.ram_mib)
        yield _row(f"`{name}`", *seconds, memory, *powers, "; ".join(filter(None, sources)))
