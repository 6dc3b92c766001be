"""The ranges of the messages' fields; msgspec refuses what lies outside."""

from typing import Annotated

from msgspec import Meta

Count = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Round = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Step = Annotated[int, Meta(ge=0, le=2**16 - 1)]
Attempt = Annotated[int, Meta(ge=1, le=2**16 - 1)]
Incarnation = Annotated[int, Meta(ge=1, le=2**31 - 1)]
"""Counts the starts of a run's server; of two servers the one with the higher number is in charge."""
Session = Annotated[int, Meta(ge=0, le=2**53 - 1)]
"""Counts the connections of a client, over restarts of its process, too: later ones have higher numbers."""
Word = Annotated[str, Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=512)]
CodecSpec = Annotated[list[str | int | float], Meta(min_length=1, max_length=8)]
CodecSpecs = tuple[CodecSpec, CodecSpec, CodecSpec, CodecSpec]
TargetSpecs = Annotated[
    list[Annotated[list[str | int], Meta(min_length=4, max_length=8)]], Meta(max_length=64)
]
SomeCodecSpecs = Annotated[tuple[CodecSpec, ...], Meta(max_length=2)]
"""None or two; with one its receiver refuses the message."""
