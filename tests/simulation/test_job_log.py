"""Records of jobs' results: everything but tensors comes back as it was, and those that are laid by, too."""

import math
from dataclasses import fields
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.errors import WireError
from broker.wire.messages import Activations, FeatureGradient, HeadUpdate, Scores
from server_node.vocabulary.jobs import Diverged, HeadEncoded, RoundClosed, TailForwarded, TailStepped
from sim.simulation.job_log import Result, record_of, result_of
from sim.simulation.job_records import Content, Record

numbers, floats, tensors = st.integers(0, 2**31 - 1), st.floats(allow_nan=True), st.binary(max_size=9)
names, texts = st.text(max_size=5), st.text(max_size=20)
heads = st.builds(HeadEncoded, tensors, st.dictionaries(names, tensors, max_size=2))
errors = st.builds(WireError, names, texts)
results = st.one_of(
    st.builds(Activations, numbers, numbers, numbers, st.just(1), numbers, tensors, tensors),
    st.builds(FeatureGradient, numbers, numbers, numbers, st.just(1), numbers, tensors, floats),
    st.builds(TailForwarded, st.dictionaries(names, tensors | errors, max_size=4)),
    st.builds(Scores, numbers, numbers, numbers, st.just(1), numbers, floats),
    st.builds(
        HeadUpdate,
        numbers,
        numbers,
        st.just(1),
        numbers,
        floats,
        tensors,
        st.lists(st.tuples(numbers, tensors, tensors), max_size=3).map(tuple),
    ),
    errors,
    heads,
    st.builds(
        TailStepped, st.dictionaries(names, st.tuples(tensors, floats) | errors, max_size=4), floats, numbers
    ),
    st.none(),
    st.builds(RoundClosed, heads, st.none() | floats, st.dictionaries(names, errors, max_size=3)),
    st.builds(Diverged, texts),
)


def plain(value: Any) -> Any:
    """Give something that can be compared: errors and NaN are equal to nothing, and dicts have no order."""
    match value:
        case Activations() | FeatureGradient() | HeadUpdate() | Scores():
            return type(value).__name__, plain(msgspec.structs.astuple(value))
        case TailForwarded() | TailStepped() | RoundClosed() | HeadEncoded() | Diverged():
            return type(value).__name__, [plain(getattr(value, field.name)) for field in fields(value)]
        case WireError():
            return value.reason, str(value)
        case dict():
            return [(key, plain(each)) for key, each in value.items()]
        case tuple():
            return [plain(each) for each in value]
        case float() if math.isnan(value):
            return "nan"
        case _:
            return value


@given(results, st.booleans())
def test_a_result_comes_back_from_its_record(result: Result, short: bool) -> None:
    laid: list[bytes] = []

    def lay_by(content: bytes) -> Content:
        laid.append(content)
        return content if short else len(content)

    record = msgspec.msgpack.encode(record_of(result, lay_by))
    waiting = list(laid)

    def fetch(content: Content) -> bytes:
        kept = waiting.pop(0)
        assert content == (kept if short else len(kept))
        return kept

    again = result_of(msgspec.msgpack.decode(record, type=Record), fetch)
    assert plain(again) == plain(result)
    assert waiting == []
