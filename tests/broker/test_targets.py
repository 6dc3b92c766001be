"""Targets of each kind: what was encoded is decoded, in few bytes; what is not of the kind is refused."""

import tracemalloc
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker.codecs.coding.places import decode_number, decode_places, encode_number, encode_places
from broker.codecs.targets import Labels, Numbers, Probabilities, Several, Tags, Targets
from broker.wire.errors import WireError

SHAPES = st.lists(st.integers(1, 6), max_size=3).map(tuple)
LABELS = st.builds(
    Labels, st.integers(1, 300) | st.integers(65_530, 300_000), SHAPES, st.sampled_from([None, -100, -1])
)
SINGLE = st.one_of(
    LABELS,
    st.builds(Numbers, SHAPES),
    st.builds(Tags, st.integers(1, 300)),
    st.builds(Probabilities, st.integers(1, 40)),
)
KINDS = SINGLE | st.builds(Several, st.dictionaries(st.sampled_from("abc"), SINGLE, min_size=1))


def as_dict(values: Any) -> dict[str, Any]:
    return values if isinstance(values, dict) else {"": values}


def assert_same(values: Any, others: Any) -> None:
    values, others = as_dict(values), as_dict(others)
    assert values.keys() == others.keys()
    for name, value in values.items():
        assert value.dtype == others[name].dtype
        np.testing.assert_array_equal(value, others[name])


def ones(rng: np.random.Generator, n: int, count: int, share: float) -> np.ndarray[Any, Any]:
    return (rng.random((n, count)) < share).astype(np.int64)


def refused(kind: Targets, data: bytes, n: int) -> str:
    with pytest.raises(WireError) as caught:
        kind.decode(data, n)
    return str(caught.value)


@given(KINDS, st.integers(1, 30), st.integers(0, 99))
def test_what_was_encoded_is_decoded(kind: Targets, n: int, seed: int) -> None:
    values = kind.example(n, np.random.default_rng(seed))
    data = kind.encode(values)
    assert kind.fits(len(data), n)
    assert len(data) <= kind.size_bytes(n)
    assert_same(kind.decode(data, n), values)


@given(KINDS, st.integers(1, 30), st.binary(max_size=400), st.booleans())
def test_any_bytes_are_targets_of_the_kind_or_refused(
    kind: Targets, n: int, data: bytes, whole: bool
) -> None:
    data = data.ljust(kind.size_bytes(n), b"\0")[: kind.size_bytes(n)] if whole else data
    try:
        values = kind.decode(data, n)
    except WireError:
        return
    assert_same(kind.decode(kind.encode(values), n), values)


@given(st.sets(st.integers(0, 5_000), max_size=300), st.integers(5_001, 2**40), st.binary(max_size=3))
@example({5_000}, 5_001, b"")
def test_places_are_read_as_they_were_written(places: set[int], total: int, after: bytes) -> None:
    written = np.array(sorted(places), np.int64)
    read, rest = decode_places(encode_places(written) + after, total)
    np.testing.assert_array_equal(read, written)
    assert rest == after


@given(st.integers(0, 2**42 - 1))
def test_numbers_are_read_as_they_were_written(number: int) -> None:
    assert decode_number(encode_number(number) + b"x") == (number, b"x")


def test_the_example_of_the_text() -> None:
    assert encode_places(np.array([1, 2, 9])).hex() == "18a601"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("", "malformed: a number without an end"),
        ("ffffffffffff01", "malformed: a number without an end"),
        ("18", "shape: 3 places below 10 in 0 bytes"),
        ("d801ffffffffff", "shape: 27 places below 10 in 5 bytes"),
        ("18a4", "shape: 1 bytes for 3 places"),
        ("18a603", "malformed: pad bits are not zero"),
        ("180000", "shape: 2 bytes for 3 places"),
        ("184c07", "range: places that are not below 10"),
        ("08000080ffff0f", "range: places that are not below 10"),
    ],
)
def test_what_is_no_places_is_refused(data: str, why: str) -> None:
    with pytest.raises(WireError) as caught:
        decode_places(bytes.fromhex(data), 10)
    assert str(caught.value) == why


def test_a_label_takes_the_bits_that_tell_the_classes_apart_and_an_ignored_one_is_one_class_more() -> None:
    assert Labels(4).encode(np.array([1, 2, 3, 0])).hex() == "39"
    assert Labels(4, ignore=-100).encode(np.array([1, 2, 3, -100])).hex() == "d108"
    assert Labels(4, ignore=-100).decode(bytes.fromhex("d108"), 4).tolist() == [1, 2, 3, -100]
    assert refused(Labels(3), b"\x39", 4) == "range: target 3 of 3 classes"
    assert refused(Labels(4, ignore=-1), b"\xd5\x08", 4) == "range: target 5 of 4 classes"
    assert not Labels(4).fits(0, 4)


def test_labels_of_many_classes_have_their_upper_bits_last() -> None:
    kind = Labels(2**17)
    assert kind.encode(np.array([1, 65_536, 131_071])).hex() == "01000000ffff" + "06"
    assert kind.size_bytes(3) == 7
    assert (
        refused(Labels(2**17 - 5), bytes.fromhex("01000000ffff06"), 3)
        == "range: target 131071 of 131067 classes"
    )


def test_a_map_of_labels_is_entropy_coded_if_that_is_shorter() -> None:
    kind = Labels(21, (32, 32), ignore=255)
    rng = np.random.default_rng(0)
    maps = np.zeros((4, 32, 32), np.int64)
    for one in maps:
        for _ in range(3):
            top, left = rng.integers(0, 24, 2)
            one[top : top + 8, left : left + 8] = rng.integers(0, 21)
    maps[:, 0] = 255
    data = kind.encode(maps)
    assert len(data) < kind.size_bytes(4) / 5
    np.testing.assert_array_equal(kind.decode(data, 4), maps)
    noise = kind.example(4, rng)
    assert len(kind.encode(noise)) <= kind.size_bytes(4)


def test_few_tags_of_many_take_a_fraction_of_a_bit_each() -> None:
    rng, kind = np.random.default_rng(0), Tags(400)
    few = ones(rng, 50, 400, 0.01)
    assert len(kind.encode(few)) < kind.size_bytes(50) / 8
    assert len(kind.encode(ones(rng, 50, 400, 0.5))) == kind.size_bytes(50)
    assert len(kind.encode(few * 0)) == 1
    alike = np.zeros((50, 400), np.int64)
    alike[:, [3, 200]] = 1
    assert len(kind.encode(alike)) == 20


def test_only_the_classes_that_are_likely_at_all_travel() -> None:
    kind = Probabilities(100)
    mixed = np.zeros((8, 100), np.float32)
    mixed[:, 3], mixed[:, 7] = 0.3, 0.7
    assert len(kind.encode(mixed)) < 8 * 2 * 4 + 20
    assert_same(kind.decode(kind.encode(mixed), 8), mixed)


@pytest.mark.parametrize(
    ("kind", "values", "why"),
    [
        (Numbers(), [1.0, float("nan")], "not-finite: a target is not finite"),
        (Numbers(), [1.0, float("-inf")], "not-finite: a target is not finite"),
        (Numbers((2,)), [1.0], "shape: 4 bytes for 1 targets of 2 numbers"),
        (Probabilities(2), [0.5, 0.4], "range: a target has probabilities that add up to 0.9, they must"),
        (Probabilities(2), [1.5, -0.5], "range: a target has the probability 1.5, each must be 0 to 1"),
        (Probabilities(2), [float("inf"), -float("inf")], "range: a target has the probability inf"),
        (Probabilities(2), [float("nan"), 1.0], "range: a target has the probability nan"),
        (Probabilities(2), [1.0] * 3, "shape: 12 bytes for 1 targets of 2 probabilities"),
    ],
)
def test_numbers_that_are_none_of_the_kind_are_refused(kind: Targets, values: list[float], why: str) -> None:
    data = np.array(values, "<f4").tobytes()
    assert refused(kind, data, 2 if kind == Numbers() else 1).startswith(why)


def test_outputs_follow_one_another_each_with_its_length() -> None:
    kind = Several({"digit": Labels(10), "angle": Numbers()})
    values = {"digit": np.array([1, 2]), "angle": np.array([0.5, -1], np.float32)}
    data = kind.encode(values)
    assert data.hex() == "01" + "21" + "0000003f000080bf"
    assert refused(kind, b"\x02\x21\0" + data[2:], 2) == "shape: 2 bytes for 2 targets of digit"
    assert refused(kind, data[:-1], 2) == "shape: 7 bytes for 2 targets of angle"
    assert refused(kind, b"\x7f" + data[1:], 2) == "shape: 9 bytes for 2 targets of digit"


@pytest.mark.parametrize(
    "data",
    [
        encode_number(8 * 2**33) + bytes(10),  # claims eight thousand million places
        encode_number(8 * 60) + b"\xff" * 10,
        encode_number(8 + 7) + b"\0" * 10 + b"\xff" * 10,
        b"\xff" * 20,
    ],
)
def test_few_bytes_take_no_more_than_the_targets_that_they_stand_for(data: bytes) -> None:
    tracemalloc.start()
    for kind in (Tags(400), Probabilities(400), Several({"a": Tags(200), "b": Tags(200)})):
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        with suppress(WireError):
            kind.decode(data, 20)
        assert tracemalloc.get_traced_memory()[1] - before < 20_000 + 3 * 8 * 400 * 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Labels(0), "classes must be 1 to 16777216, not 0"),
        (lambda: Labels(2**24, ignore=-1), "classes must be 1 to 16777216, not 16777216"),
        (lambda: Labels(10, ignore=3), "ignore must be none of the classes, such as -100, not 3"),
        (lambda: Numbers((2, 0)), r"the shape of a target must be whole numbers above 0, not \(2, 0\)"),
        (lambda: Several({}), "targets must name the kind of each output"),
    ],
)
def test_a_kind_that_cannot_be_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_every_kind_says_in_a_message_what_it_is() -> None:
    kind = Several(
        {"a": Labels(9, (2, 2), ignore=-1), "b": Numbers((3,)), "c": Tags(5), "d": Probabilities(4)}
    )
    assert kind.wire_parts() == [
        ["a", "labels", 10, 4],
        ["b", "numbers", 0, 3],
        ["c", "tags", 2, 5],
        ["d", "probabilities", 4, 4],
    ]
