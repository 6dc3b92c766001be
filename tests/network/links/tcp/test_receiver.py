"""What a receiver acknowledges when; a way back takes a second here."""

import random

from hypothesis import given
from hypothesis import strategies as st

from scenarios.schema.links import Link
from sim.network.links.path import path_of
from sim.network.links.tcp.receiver import DELAYED_ACK_S, Receiver

PATH = path_of(Link(), "up")


def receiver(segments: int) -> Receiver:
    return Receiver(segments, lambda now_s, _: now_s + 1.0)


def test_every_second_segment_is_acknowledged_and_the_last_one_at_once() -> None:
    far = receiver(5)
    for segment in range(5):
        far.arrived(segment, 0.01 * segment, 0.0, PATH)
    assert [(ack_s, upto) for ack_s, upto, *_ in far.acks] == [(1.01, 2), (1.03, 4), (1.04, 5)]


def test_the_first_segments_of_a_connection_are_acknowledged_one_by_one() -> None:
    far = Receiver(9, lambda now_s, _: now_s + 1.0, 3)
    for segment in range(5):
        far.arrived(segment, 0.0, 0.0, PATH)
    assert [upto for _, upto, *_ in far.acks] == [1, 2, 3, 5]


def test_a_segment_that_stays_alone_is_acknowledged_later() -> None:
    far = receiver(5)
    far.arrived(0, 0.0, 0.0, PATH)
    assert (far.due_s, len(far.acks)) == (DELAYED_ACK_S, 0)
    far.arrived(1, 0.5, 0.0, PATH)
    far.arrived(2, 0.51, 0.0, PATH)
    assert [(ack_s, upto) for ack_s, upto, *_ in far.acks] == [(1.0 + DELAYED_ACK_S, 1), (1.51, 3)]


def test_what_comes_beyond_a_gap_is_told_at_once_and_so_is_what_fills_it() -> None:
    far = receiver(9)
    for segment in (1, 2, 0, 4):
        far.arrived(segment, 0.0, 0.0, PATH)
    assert [ack[:3] for ack in far.acks] == [(1.0, 0, [1]), (1.0, 0, [2]), (1.0, 3, []), (1.0, 3, [4])]


def test_a_lost_acknowledgement_is_made_up_for_by_the_next_one() -> None:
    fates = iter([True, False])
    far = Receiver(9, lambda now_s, _: None if next(fates) else now_s + 1.0)
    far.arrived(1, 0.0, 0.0, PATH)
    far.arrived(3, 0.0, 0.0, PATH)
    assert [ack[:3] for ack in far.acks] == [(1.0, 0, [1, 3])]


@given(st.permutations(range(12)), st.randoms())
def test_in_any_order_all_segments_are_told_once_and_the_last_acknowledgement_has_all(
    order: list[int], rng: random.Random
) -> None:
    far = receiver(12)
    for number, segment in enumerate(order):
        far.arrived(segment, number * rng.choice([0.001, 0.1]) + number, 0.0, PATH)
    told = [segment for _, _, others, _ in far.acks for segment in others]
    assert len(told) == len(set(told))
    assert far.acks[-1][1] == far.upto == 12
    times = [ack_s for ack_s, *_ in far.acks]
    assert times == sorted(times)


def test_an_acknowledgement_tells_when_the_first_segment_was_sent_that_it_answers() -> None:
    far = receiver(9)
    for segment, sent_s in ((0, 0.1), (1, 0.2), (3, 0.3), (2, 0.4)):
        far.arrived(segment, 0.5, sent_s, PATH)
    assert [(upto, sent_s) for _, upto, _, sent_s in far.acks] == [(2, 0.1), (2, 0.1), (4, 0.4)]
