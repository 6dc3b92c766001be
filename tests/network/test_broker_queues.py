"""The broker's queue against queueing theory, and its limits for each client."""

import numpy as np
import pytest

from scenarios.schema.network import BrokerModel
from sim.network.broker_queues import ServiceQueue, Window


def test_by_default_the_broker_takes_no_time() -> None:
    assert ServiceQueue(BrokerModel()).serve(3.0, 10**6) == 3.0


def test_messages_are_served_one_after_another() -> None:
    queue = ServiceQueue(BrokerModel(per_message_us=500_000, per_byte_ns=1_000_000))
    # half a second each, and a millisecond for each byte
    assert [queue.serve(now, size) for now, size in [(0.0, 500), (0.1, 0), (9.0, 250)]] == [1.0, 1.5, 9.75]


@pytest.mark.parametrize("load", [0.3, 0.5, 0.8])
def test_random_arrivals_wait_as_long_as_in_an_m_d_1_queue(load: float) -> None:
    # Pollaczek-Khinchine for constant service S: mean wait = load S / (2 (1 - load))
    queue = ServiceQueue(BrokerModel(per_message_us=1_000_000))
    arrivals = np.cumsum(np.random.default_rng(1).exponential(1 / load, 100_000))
    waits = [queue.serve(now, 0) - 1.0 - now for now in arrivals.tolist()]
    assert np.mean(waits) == pytest.approx(load / (2 * (1 - load)), rel=0.05)


def test_a_full_window_waits_for_the_oldest_acknowledgement() -> None:
    window = Window(BrokerModel(in_flight=2))
    for acknowledged_s in (1.0, 1.5):
        assert window.admit(0.0) == 0.0
        window.sent(acknowledged_s)
    assert window.admit(0.0) == 1.0
    window.sent(2.0)
    assert window.admit(0.0) == 1.5
    window.sent(2.5)
    assert window.admit(1.2) == 1.5 + 0.5  # those of 1.5, 2.0 and 2.5 are still out
    window.sent(3.0)
    assert window.admit(2.6) == 2.6


def test_what_waits_above_the_limit_is_dropped() -> None:
    window = Window(BrokerModel(in_flight=1, queue_limit=2))
    for acknowledged_s in (1.0, 2.0, 3.0):
        assert window.admit(0.0) is not None
        window.sent(acknowledged_s)
    assert window.admit(0.5) is None
    assert window.admit(1.0) == 3.0  # one has been acknowledged
    window.reset()
    assert window.admit(1.0) == 1.0


def test_what_needs_no_answer_leaves_at_once_until_the_queue_is_full() -> None:
    window = Window(BrokerModel(in_flight=1, queue_limit=1))
    for _ in range(2):
        assert window.admit(0.0, waits=False) == 0.0
        window.sent(1.0)
    assert window.admit(0.5, waits=False) is None
    assert window.admit(1.0, waits=False) == 1.0
