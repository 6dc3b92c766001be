"""How the tensors of each flow become bytes, and which clients' links call for other codecs."""

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from broker.codecs import (
    CLUSTERING_CODECS,
    Codec,
    CodewordMean,
    Float32,
    GradientCodec,
    TensorCodec,
    clustering,
)
from scenarios.schema.base import Key, Part, Positive
from scenarios.schema.links import LinkChoice, link_of
from scenarios.schema.task_spec import Layer

AnyCodec = Annotated[TensorCodec, Field(discriminator="codec")]
AnyGradientCodec = Annotated[TensorCodec | CodewordMean, Field(discriminator="codec")]


class Codecs(NamedTuple):
    """The codecs of a client, in the order of the wire; the last two are of a U-shape only."""

    activations_up: Codec
    gradient_down: GradientCodec
    head_update_up: Codec
    head_state_down: Codec
    features_down: Codec = Float32()
    feature_gradient_up: Codec = Float32()


_BY_LINK = tuple(flow for flow in Codecs._fields if flow != "head_state_down")
_BY_CUT = Codecs._fields[:4]


class LinkRule(Part):
    """Other codecs for the clients with a slow link."""

    uplink_below_kbps: Positive = Field(
        description="for clients whose fleet group has a link with a slower uplink; unlimited is never slow"
    )
    activations_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    gradient_down: AnyGradientCodec | None = Field(default=None, description="instead of that of all clients")
    head_update_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    features_down: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    feature_gradient_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")

    @model_validator(mode="after")
    def _changes_something(self) -> "LinkRule":
        if not self.codecs():
            raise ValueError(f"needs a codec for {', '.join(_BY_LINK[:-1])} or {_BY_LINK[-1]}")
        return self

    def codecs(self) -> dict[str, GradientCodec]:
        """Give the codecs that the rule names, by flow."""
        named = {flow: getattr(self, flow) for flow in _BY_LINK}
        return {flow: codec for flow, codec in named.items() if codec is not None}


class CutRule(Part):
    """Other codecs for the clients with an early cut; what they send has other sizes."""

    cut: Layer = Field(description="for clients whose fleet group has this cut")
    activations_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    gradient_down: AnyGradientCodec | None = Field(default=None, description="instead of that of all clients")
    head_update_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    head_state_down: AnyCodec | None = Field(default=None, description="instead of that of all clients")

    @model_validator(mode="after")
    def _changes_something(self) -> "CutRule":
        if not self.codecs():
            raise ValueError(f"needs a codec for {', '.join(_BY_CUT[:-1])} or {_BY_CUT[-1]}")
        return self

    def codecs(self) -> dict[str, GradientCodec]:
        """Give the codecs that the rule names, by flow."""
        named = {flow: getattr(self, flow) for flow in _BY_CUT}
        return {flow: codec for flow, codec in named.items() if codec is not None}


class Flows(Part):
    """How the tensors of each flow become bytes."""

    activations_up: AnyCodec = Field(
        default=Float32(), description="activations at the cut, client to server"
    )
    gradient_down: AnyGradientCodec = Field(default=Float32(), description="their gradient, server to client")
    head_update_up: AnyCodec = Field(default=Float32(), description="change of the head, client to server")
    head_state_down: AnyCodec = Field(default=Float32(), description="the head, server to client")
    features_down: AnyCodec = Field(
        default=Float32(),
        description="for method u_shape: what the server's layers make of activations, server to client",
    )
    feature_gradient_up: AnyCodec = Field(
        default=Float32(), description="for method u_shape: their gradient, client to server"
    )
    error_feedback: bool = Field(
        default=False,
        description=(
            "a device adds what the codec of head_update_up has lost of its change to its next change "
            "(Seide et al. 2014, Karimireddy et al. 2019)"
        ),
    )
    own_rows: bool = Field(
        default=False,
        description=(
            "for head_state_down in touched_rows: a device is sent only those rows of embeddings that its "
            "own samples need, and tells the server which these are"
        ),
    )
    by_link: tuple[LinkRule, ...] = Field(
        default=(),
        description=(
            "other codecs for slow links; of several rules that name a flow, the one for the slowest counts"
        ),
    )

    by_cut: tuple[CutRule, ...] = Field(
        default=(),
        description="other codecs for clients with an early cut; they go before those of by_link",
    )

    def codecs_for(self, link: LinkChoice, cut: str | None = None) -> Codecs:
        """Give the codecs of a client behind a link, with an early cut or none.

        The head comes down to everybody with the same cut in the same form.
        """
        uplink_kbps = link_of(link).uplink_kbps
        slow = () if uplink_kbps is None else self.by_link
        codecs = self._codecs_under(rule for rule in slow if (uplink_kbps or 0.0) < rule.uplink_below_kbps)
        for rule in self.by_cut:
            if rule.cut == cut:
                codecs = codecs._replace(**rule.codecs())  # type: ignore[arg-type]  # by name, they fit
        return codecs

    def codecs_of_rule(self, number: int) -> Codecs:
        """Give the codecs of the clients for whom a rule of `by_link` is the one for the slowest links."""
        limit_kbps = self.by_link[number].uplink_below_kbps
        return self._codecs_under(rule for rule in self.by_link if limit_kbps <= rule.uplink_below_kbps)

    def _codecs_under(self, rules: Iterable[LinkRule]) -> Codecs:
        codecs = Codecs(**{flow: getattr(self, flow) for flow in Codecs._fields})
        for rule in sorted(rules, key=lambda rule: -rule.uplink_below_kbps):
            codecs = codecs._replace(**rule.codecs())  # type: ignore[arg-type]  # by name, they fit
        return codecs


def unfit_at_cut(
    flows: Flows, codecs: Codecs, cut: str, sizes: Mapping[str, int]
) -> Iterator[tuple[Key, str]]:
    """Say which codecs of a client cannot encode rows of the sizes that its early cut has.

    Args:
        flows: of the scenario.
        codecs: of the client.
        cut: its early cut.
        sizes: of the rows of each flow there.
    """
    rules = {rule.cut: number for number, rule in enumerate(flows.by_cut)}
    for flow, codec in codecs._asdict().items():
        if flow not in sizes:
            continue
        why = ""
        if isinstance(codec, CodewordMean):
            if clustering(codecs.activations_up) is None:
                why = f"codeword_mean needs activations_up in {' or '.join(CLUSTERING_CODECS)}"
        else:
            try:
                codec.check(sizes[flow])
            except ValueError as error:
                why = str(error)
        if not why:
            continue
        named = cut in rules and flow in flows.by_cut[rules[cut]].codecs()
        key: Key = ("flows", "by_cut", rules[cut], flow) if named else ("flows", flow)
        hint = "" if named else "; name another codec for this cut in flows.by_cut"
        yield key, f"at the cut '{cut}', with rows of {sizes[flow]} values: {why}{hint}"


def unfit_codecs(flows: Flows, sizes: Mapping[str, int]) -> Iterator[tuple[Key, str]]:
    """Say which codecs cannot encode rows of their flow's size, or do not go with that of another flow."""
    usual = flows.codecs_for("none")
    named: list[tuple[Key, Codecs, Container[str]]] = [(("flows",), usual, usual._fields)]
    for number, rule in enumerate(flows.by_link):
        named.append((("flows", "by_link", number), flows.codecs_of_rule(number), rule.codecs()))
    for key, codecs, changed in named:
        for flow, codec in codecs._asdict().items():
            if flow in sizes and flow in changed and not isinstance(codec, CodewordMean):
                try:
                    codec.check(sizes[flow])
                except ValueError as error:
                    yield (*key, flow), str(error)
        if isinstance(codecs.gradient_down, CodewordMean) and clustering(codecs.activations_up) is None:
            flow = "gradient_down" if "gradient_down" in changed else "activations_up"
            if flow in sizes and flow in changed:
                needed = " or ".join(CLUSTERING_CODECS)
                yield (*key, flow), f"codeword_mean, for gradient_down, needs activations_up in {needed}"
