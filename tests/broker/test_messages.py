"""Messages as bytes: golden forms, round trips, and what is refused."""

import math
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    Ask,
    Assignment,
    Claim,
    FeatureGradient,
    Features,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    RunScenario,
    RunState,
    Scores,
    Standing,
    Status,
    StopRun,
    Welcome,
)
from broker.wire.packing import decode, encode, encoded_bytes, qos_of

GOLDEN = [
    pytest.param(
        Hello(300, "d1", 80, package="0.1.0", model="0a-1b"),
        "98 03 01 cd012c a26431 50 c2 a5302e312e30 a530612d3162",
        id="hello",
    ),
    pytest.param(Hello(300, "d1", 80), "95 03 01 cd012c a26431 50", id="hello of defaults"),
    pytest.param(
        Hello(300, "d1", 80, held_out=25), "99 03 01 cd012c a26431 50 c2 a0 a0 19", id="hello with held out"
    ),
    pytest.param(
        Hello(300, "d1", 80, rows=b"\x02"),
        "9a 03 01 cd012c a26431 50 c2 a0 a0 00 c40102",
        id="hello with rows",
    ),
    pytest.param(
        Assignment(3, 7, 1, 4, 0.5, ([2], [2], [2], [2]), b"", first_step=2),
        "9a 03 04 03 07 01 04 ca3f000000 94 " + "9102" * 4 + " c400 02",
        id="assignment of an evaluation",
    ),
    pytest.param(
        Assignment(3, 7, 1, 4, 0.5, ([2], [2], [2], [2]), b"", since=5),
        "9c 03 04 03 07 01 04 ca3f000000 94 " + "9102" * 4 + " c400 00 90 05",
        id="assignment of a change",
    ),
    pytest.param(Status(online=False, session=5), "94 03 02 c2 05", id="status"),
    pytest.param(
        RunState("running", 2, 9, 3, 300, ""), "97 03 03 a772756e6e696e67 02 09 03 cd012c", id="run state"
    ),
    pytest.param(
        Assignment(3, 7, 1, 1, 0.5, ([7, 1152, 1, 2], [1], [1], [8, 4704, 16, 1]), b"\x01\x02"),
        "99 03 04 03 07 01 01 ca3f000000 94 9407cd04800102 9101 9101 9408cd12601001 c4020102",
        id="assignment",
    ),
    pytest.param(
        Activations(3, 7, 0, 1, 2, b"\x05\x06", b"\x21"),
        "99 03 05 03 07 00 01 02 c4020506 c40121",
        id="activations",
    ),
    pytest.param(Gradient(3, 7, 0, 1, 0.5, b"\x09"), "98 03 06 03 07 00 01 ca3f000000 c40109", id="gradient"),
    pytest.param(
        HeadUpdate(3, 7, 1, 20, 0.25, b""), "98 03 07 03 07 01 14 ca3e800000 c400", id="head update"
    ),
    pytest.param(
        HeadUpdate(3, 7, 1, 4, 0.25, b"", ((3, b"\x05\x06", b"\x21"), (1, b"\x07", b"\x00"))),
        "99 03 07 03 07 01 04 ca3e800000 c400 92 9303c4020506c40121 9301c40107c40100",
        id="head update with batches",
    ),
    pytest.param(Rejected("shape", "no"), "94 03 08 a57368617065 a26e6f", id="rejected"),
    pytest.param(Ask(3, 9, 7, 1, resend=True), "97 03 09 03 09 07 01 c3", id="ask"),
    pytest.param(Progress(3, 9, 7, 1, Standing.ANSWERED), "97 03 0a 03 09 07 01 02", id="progress"),
    pytest.param(Ask(3, 9, 7, 1), "96 03 09 03 09 07 01", id="ask without resend"),
    pytest.param(Released(3, 7, greet=False), "95 03 0b 03 07 c2", id="released"),
    pytest.param(
        Welcome(3, 20, 1, 9216, 10, 1, 128_000, b"\x01"),
        "9b 03 0c 03 14 01 cd2400 0a 01 ce0001f400 c40101 90",
        id="welcome",
    ),
    pytest.param(Claim(3, 7, takeover=True), "95 03 0d 03 07 c3", id="claim"),
    pytest.param(StopRun("done"), "93 03 0e a4646f6e65", id="stop run"),
    pytest.param(RunScenario(b"\x78", "a-b"), "94 03 0f c40178 a3612d62", id="run scenario"),
    pytest.param(Features(3, 7, 0, 1, b"\x09"), "97 03 10 03 07 00 01 c40109", id="features"),
    pytest.param(
        FeatureGradient(3, 7, 1, 1, 2, b"\x09", 0.5),
        "99 03 11 03 07 01 01 02 c40109 ca3f000000",
        id="gradient of features",
    ),
    pytest.param(Scores(3, 7, 4, 1, 25, 0.5), "98 03 12 03 07 04 01 19 ca3f000000", id="scores"),
    pytest.param(
        Assignment(3, 7, 1, 2, 0.5, (["a"], ["b"], ["c"], ["d"]), b"", features=(["e"], ["f", 4])),
        "9b 03 04 03 07 01 02 ca3f000000 94 91a161 91a162 91a163 91a164 c400 00 92 91a165 92a16604",
        id="assignment of a U-shape",
    ),
]


@pytest.mark.parametrize(("message", "golden"), GOLDEN)
def test_version_3_stays_as_it_is(message: Message, golden: str) -> None:
    data = bytes.fromhex(golden)
    assert encode(message) == data
    assert decode(data) == message


servers = st.integers(1, 2**31 - 1)
sessions = st.integers(0, 2**53 - 1)
rounds = st.integers(0, 2**31 - 1)
steps = st.integers(0, 2**16 - 1)
attempts = st.integers(1, 2**16 - 1)
words = st.text(max_size=20)
payloads = st.binary(max_size=300) | st.integers(250, 70_000).map(bytes)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32)
parameters = st.floats(allow_nan=False, allow_infinity=False)
specs = st.lists(words | rounds | parameters, min_size=1, max_size=8)
assignments = st.builds(
    Assignment,
    servers,
    rounds,
    attempts,
    steps,
    numbers,
    st.tuples(specs, specs, specs, specs),
    payloads,
    st.just(0) | steps,
    st.just(()) | st.tuples(specs, specs),
)
some_messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, sessions, words, rounds, st.booleans(), words, words, rounds, payloads),
    st.builds(Activations, servers, rounds, steps, attempts, st.integers(1, 2**16), payloads, payloads),
    assignments,
    st.builds(Features, servers, rounds, steps, attempts, payloads),
    st.builds(FeatureGradient, servers, rounds, steps, attempts, st.integers(1, 2**16), payloads, numbers),
    st.builds(Scores, servers, rounds, steps, attempts, st.integers(1, 2**31 - 1), numbers),
    st.builds(Gradient, servers, rounds, steps, attempts, numbers, payloads),
    st.builds(HeadUpdate, servers, rounds, attempts, st.integers(1, 2**31 - 1), numbers, payloads),
    st.builds(
        HeadUpdate,
        servers,
        rounds,
        attempts,
        st.integers(1, 2**31 - 1),
        numbers,
        payloads,
        st.lists(st.tuples(st.integers(1, 2**16), payloads, payloads), max_size=20).map(tuple),
    ),
    st.builds(Ask, servers, rounds, rounds, steps, st.booleans()),
    st.builds(Progress, servers, rounds, rounds, steps, st.sampled_from(Standing)),
    st.builds(Released, servers, rounds, st.booleans()),
    st.builds(Claim, servers, rounds, st.booleans()),
    st.builds(Rejected, st.text(max_size=60), st.text(max_size=500)),
)


@given(some_messages)
def test_what_is_encoded_decodes_and_its_size_is_known_beforehand(message: Message) -> None:
    data = encode(message)
    assert decode(data) == message
    assert encoded_bytes(message) == len(data)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_has_32_bits_before_it_is_sent(number: float) -> None:
    sent: tuple[Message, ...] = (
        Gradient(3, 7, 0, 1, number, b""),
        HeadUpdate(3, 7, 1, 20, number, b""),
        FeatureGradient(3, 7, 1, 1, 2, b"", number),
        Scores(3, 7, 4, 1, 25, number),
        Assignment(3, 7, 1, 1, number, ([1], [1], [1], [5, 0.01]), b""),
    )
    with np.errstate(over="ignore"):
        nearest = float(np.float32(number))
    fields = ("correction", "quantization_error", "loss", "score_sum", "head_lr")
    for message, field in zip(sent, fields, strict=True):
        assert getattr(message, field) == nearest
        if math.isfinite(nearest):
            assert decode(encode(message)) == message
        else:
            with pytest.raises(WireError, match="not-finite"):
                decode(encode(message))


OF_A_ROUND = (Assignment, Activations, Gradient, Features, FeatureGradient, HeadUpdate, Scores)


@given(some_messages)
def test_small_messages_of_a_round_go_without_an_answer_of_the_broker(message: Message) -> None:
    size = encoded_bytes(message)
    assert qos_of(message, size) == (0 if isinstance(message, OF_A_ROUND) and size <= 4096 else 1)


@pytest.mark.parametrize(
    "message",
    [
        Ask(3, 9, 7, 1),
        Progress(3, 9, 7, 1, Standing.MISSING),
        Hello(300, "d1", 80),
        Status(online=True, session=5),
        RunState("running", 2),
        Released(3, 7, greet=True),
    ],
)
def test_what_nobody_asks_for_again_is_answered_by_the_broker(message: Message) -> None:
    assert qos_of(message, encoded_bytes(message)) == 1


@given(assignments, st.sampled_from([math.nan, math.inf, -math.inf]), st.data())
def test_a_codec_with_a_number_that_is_none_is_refused(
    message: Assignment, number: float, data: st.DataObject
) -> None:
    spec = data.draw(st.sampled_from([*message.codecs, *message.features]))
    spec[data.draw(st.integers(0, len(spec) - 1))] = number
    with pytest.raises(WireError, match="not-finite"):
        decode(encode(message))


@given(st.binary(max_size=200))
def test_noise_is_refused_as_a_wire_error(noise: bytes) -> None:
    try:
        decode(noise)
    except WireError as error:
        assert error.reason in ("malformed", "version", "not-finite")  # noqa: PT017  noise may also be valid


@given(some_messages, st.data())
def test_a_cut_message_is_refused(message: Message, data: st.DataObject) -> None:
    whole = encode(message)
    with pytest.raises(WireError):
        decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def packed(*fields: Any) -> bytes:
    data: bytes = msgpack.packb(fields)
    return data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"", "malformed", id="empty"),
        pytest.param(packed(3, 2, True, 1) + b"\x00", "malformed", id="something after it"),
        pytest.param(msgpack.packb({"version": 1}), "malformed", id="a map"),
        pytest.param(packed(3), "malformed", id="no type"),
        pytest.param(packed(2, 2, True, 1), "version", id="version 2"),
        pytest.param(packed(True, 2, True, 1), "version", id="a version that is no number"),
        pytest.param(packed(3, 99, 1), "malformed", id="unknown type"),
        pytest.param(packed(3, 2, 1, 1), "malformed", id="a number for a truth value"),
        pytest.param(packed(3, 5, 1, -1, 0, 1, 1, b"", b""), "malformed", id="negative round"),
        pytest.param(packed(3, 5, 1, 1, 0, 1, 0, b"", b""), "malformed", id="a batch of none"),
        pytest.param(packed(3, 5, 1, 1, 0, 1, 1, "text", b""), "malformed", id="text for bytes"),
        pytest.param(packed(3, 5, 1, 1, 0, 1, 1, b""), "malformed", id="a field is missing"),
        pytest.param(packed(3, 6, 1, 1, 0, 1, math.nan, b""), "not-finite", id="NaN for lambda"),
        pytest.param(packed(3, 7, 1, 1, 1, 1, math.inf, b""), "not-finite", id="infinite error"),
        pytest.param(packed(3, 8, "x" * 65, ""), "malformed", id="a reason too long"),
        pytest.param(packed(3, 4, 1, 1, 1, 1, 0.1, [["pq"]] * 5, b""), "malformed", id="five codecs"),
        pytest.param(b"\x94\x03\x06\xc6\xff\xff\xff\xff", "malformed", id="4 GB promised"),
        pytest.param(b"\xdd\xff\xff\xff\xff", "malformed", id="four billion fields promised"),
        pytest.param(b"\x95\x03\x02\xc2\x05" + b"\x91" * 5000, "malformed", id="deeply nested"),
        pytest.param(packed(3, 2, msgpack.ExtType(5, b"x")), "malformed", id="an extension type"),
    ],
)
def test_what_breaks_the_rules_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(data)
    assert caught.value.reason == reason


def test_a_greeting_from_before_fingerprints_is_read() -> None:
    assert decode(packed(3, 1, 7, "d1", 80, False)) == Hello(7, "d1", 80, package="", model="")


def test_fields_of_a_later_minor_form_are_ignored() -> None:
    assert decode(packed(3, 2, True, 1, "something new")) == Status(online=True, session=1)
