"""How the tensors of each flow become bytes, and which clients' links call for other codecs."""

import itertools
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from broker.codecs import (
    CLUSTERING_CODECS,
    Codec,
    CodewordMean,
    Float32,
    GradientCodec,
    TensorCodec,
    clustering,
    gradient_bytes,
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


class _SomeCodecs(Part):
    """Codecs that a rule may name, whatever it is about."""

    activations_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    gradient_down: AnyGradientCodec | None = Field(default=None, description="instead of that of all clients")
    head_update_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")

    def codecs(self) -> dict[str, GradientCodec]:
        """Give the codecs that are named, by flow."""
        named = {flow: getattr(self, flow, None) for flow in Codecs._fields}
        return {flow: codec for flow, codec in named.items() if codec is not None}

    def refuse_empty(self) -> None:
        """Refuse a rule without a codec: it would change nothing."""
        if not self.codecs():
            *flows, last = (flow for flow in Codecs._fields if flow in type(self).model_fields)
            raise ValueError(f"needs a codec for {', '.join(flows)} or {last}")


class OtherCodecs(_SomeCodecs):
    """Codecs that take the place of those of all clients."""

    features_down: AnyCodec | None = Field(default=None, description="instead of that of all clients")
    feature_gradient_up: AnyCodec | None = Field(default=None, description="instead of that of all clients")


class LinkRule(OtherCodecs):
    """Other codecs for the clients with a slow link."""

    uplink_below_kbps: Positive = Field(
        description="for clients whose fleet group has a link with a slower uplink; unlimited is never slow"
    )

    @model_validator(mode="after")
    def _changes_something(self) -> "LinkRule":
        self.refuse_empty()
        return self


class Adaptive(Part):
    """Codecs that the server chooses for each client and round, by how fast its answers came so far."""

    ladder: tuple[OtherCodecs, ...] = Field(
        min_length=2,
        description=(
            "rungs from the finest, with the most bytes, to the coarsest; a flow that a rung does not name "
            "has the codec of all clients"
        ),
    )


class CutRule(_SomeCodecs):
    """Other codecs for the clients with an early cut; what they send has other sizes."""

    cut: Layer = Field(description="for clients whose fleet group has this cut")
    head_state_down: AnyCodec | None = Field(default=None, description="instead of that of all clients")

    @model_validator(mode="after")
    def _changes_something(self) -> "CutRule":
        self.refuse_empty()
        return self


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
    head_since: Literal["start", "last"] = Field(
        default="start",
        description=(
            "what head_state_down sends the change since. start: the head that the run starts from, the same "
            "for all; last: the head that the device was sent before, of which both sides keep two copies"
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
    adaptive: Adaptive | None = Field(
        default=None, description="codecs that follow each client's link, as the server measures it"
    )
    by_cut: tuple[CutRule, ...] = Field(
        default=(),
        description="other codecs for clients with an early cut; they go before those of by_link",
    )

    @model_validator(mode="after")
    def _one_chooses(self) -> "Flows":
        ladder = {flow for rung in self.rungs for flow in rung}
        both = [flow for rule in self.by_link for flow in rule.codecs() if flow in ladder]
        if both:
            raise ValueError(f"{both[0]} is in by_link and in adaptive; only one of them can choose it")
        return self

    @property
    def rungs(self) -> tuple[Mapping[str, GradientCodec], ...]:
        """What each rung of the ladder names, by flow, from the finest to the coarsest; empty without one."""
        return () if self.adaptive is None else tuple(rung.codecs() for rung in self.adaptive.ladder)

    def codecs_for(self, link: LinkChoice, cut: str | None = None) -> Codecs:
        """Give the codecs of a client behind a link, with an early cut or none.

        The head comes down to everybody with the same cut in the same form.
        """
        uplink_kbps = link_of(link).uplink_kbps
        slow = () if uplink_kbps is None else self.by_link
        codecs = self._codecs_under(rule for rule in slow if (uplink_kbps or 0.0) < rule.uplink_below_kbps)
        for rule in self.by_cut:
            if rule.cut == cut:
                codecs = with_others(codecs, rule.codecs())
        return codecs

    def codecs_of_rule(self, number: int) -> Codecs:
        """Give the codecs of the clients for whom a rule of `by_link` is the one for the slowest links."""
        limit_kbps = self.by_link[number].uplink_below_kbps
        return self._codecs_under(rule for rule in self.by_link if limit_kbps <= rule.uplink_below_kbps)

    def _codecs_under(self, rules: Iterable[LinkRule]) -> Codecs:
        codecs = Codecs(**{flow: getattr(self, flow) for flow in Codecs._fields})
        for rule in sorted(rules, key=lambda rule: -rule.uplink_below_kbps):
            codecs = with_others(codecs, rule.codecs())
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


def with_others(codecs: Codecs, others: Mapping[str, GradientCodec]) -> Codecs:
    """Give a client's codecs with those that a rule, or a rung of the ladder, names in their place."""
    return codecs._replace(**others)  # type: ignore[arg-type]  # by name, they fit


def tensor_bytes(codecs: Codecs, sizes: Mapping[str, int], samples: int) -> dict[str, int]:
    """Give the largest payload of each flow that is in use.

    Args:
        codecs: of a client.
        sizes: values of a row of each flow that is in use.
        samples: rows of a batch; a head is one row.
    """
    rows = {flow: 1 if flow.startswith("head_") else samples for flow in sizes}
    return {
        flow: gradient_bytes(codecs.gradient_down, codecs.activations_up, rows[flow], size)
        if flow == "gradient_down"
        else getattr(codecs, flow).size_bytes(rows[flow], size)
        for flow, size in sizes.items()
    }


def unfit_codecs(flows: Flows, sizes: Mapping[str, int], samples: int) -> Iterator[tuple[Key, str]]:
    """Say which codecs cannot encode rows of their flow's size, or do not go with that of another flow.

    Args:
        flows: of the scenario.
        sizes: values of a row of each flow that is in use.
        samples: of a batch.
    """
    yield from dict.fromkeys(_unfit(flows, sizes)) or _not_coarser(flows, sizes, samples)


def _not_coarser(flows: Flows, sizes: Mapping[str, int], samples: int) -> Iterator[tuple[Key, str]]:
    """Say which rungs of the ladder take no fewer bytes than the one before."""
    usual = flows.codecs_for("none")
    bytes_of = [sum(tensor_bytes(with_others(usual, rung), sizes, samples).values()) for rung in flows.rungs]
    for number, (finer, coarser) in enumerate(itertools.pairwise(bytes_of), start=1):
        if coarser >= finer:
            order = "order the ladder from the finest to the coarsest"
            problem = f"takes {coarser} bytes for a batch and the head, the rung before {finer}: {order}"
            yield ("flows", "adaptive", "ladder", number), problem


def _unfit(flows: Flows, sizes: Mapping[str, int]) -> Iterator[tuple[Key, str]]:
    usual = flows.codecs_for("none")
    named: list[tuple[Key, Codecs, Container[str]]] = [(("flows",), usual, usual._fields)]
    for number, rule in enumerate(flows.by_link):
        named.append((("flows", "by_link", number), flows.codecs_of_rule(number), rule.codecs()))
    bases = dict.fromkeys(each for _, each, _ in named)
    for number, rung in enumerate(flows.rungs):
        at: Key = ("flows", "adaptive", "ladder", number)
        named += [(at, with_others(base, rung), rung) for base in bases]
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
