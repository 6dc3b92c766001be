"""Every byte of a run is counted once, in the flow it belongs to."""

import pytest

from broker.codecs import Float32, Int8
from broker.wire.messages import Activations, Ask, Assignment, Gradient, HeadUpdate, Hello, Message, Released
from broker.wire.packing import encode, published
from server_node.vocabulary.ledger import CONTROL, DOWN, FLOWS, U_SHAPE_FLOWS, UP, Flow, Ledger


def test_each_flow_goes_up_or_comes_down() -> None:
    assert UP == ("activations_up", "head_update_up", "feature_gradient_up")
    assert DOWN == ("gradient_down", "head_state_down", "features_down")
    assert {*UP, *DOWN} == {*FLOWS, *U_SHAPE_FLOWS}


def test_at_first_nothing_has_been_carried() -> None:
    ledger = Ledger()
    assert ledger.flows == {name: Flow(0, 0, 0, 0) for name in (*FLOWS, CONTROL)}
    assert (ledger.sent, ledger.received, ledger.paper_bits) == (0, 0, [0.0, 0.0])


@pytest.mark.parametrize(
    ("message", "flow", "payload_bytes"),
    [
        (Activations(1, 1, 0, 1, 1, bytes(7), bytes(2)), "activations_up", 7),
        (HeadUpdate(1, 1, 1, 1, 0.0, bytes(5)), "head_update_up", 5),
        (Hello(1, "digest", 9), CONTROL, 0),
    ],
)
def test_what_a_client_says_counts_with_the_bytes_it_had_on_the_wire(
    message: Message, flow: str, payload_bytes: int
) -> None:
    ledger = Ledger()
    ledger.receive(message, 40)
    ledger.receive(message, 60)
    assert ledger.flows.pop(flow) == Flow(2, 2 * payload_bytes, 100, 0)
    assert set(map(str, ledger.flows.values())) == {str(Flow())}
    assert (ledger.received, ledger.sent) == (2, 0)


def test_of_batches_with_a_head_update_payloads_and_targets_count_as_activations() -> None:
    ledger = Ledger()
    ledger.receive(HeadUpdate(1, 1, 1, 5, 0.0, bytes(5), ((3, bytes(7), bytes(3)), (2, bytes(4), b"12"))), 60)
    assert ledger.flows["activations_up"] == Flow(0, 11, 16, 0)
    assert ledger.flows["head_update_up"] == Flow(1, 5, 44, 0)


@pytest.mark.parametrize(
    ("message", "flow", "payload_bytes"),
    [
        (Gradient(1, 1, 0, 1, 0.0, bytes(7)), "gradient_down", 7),
        (Gradient(1, 1, 0, 1, 0.0, bytes(5000)), "gradient_down", 5000),
        (Assignment(1, 1, 1, 1, 0.1, ([], [], [], []), bytes(5)), "head_state_down", 5),
        (Ask(1, 1, 1, 0), CONTROL, 0),
        (Released(1, 1, greet=True), CONTROL, 0),
    ],
)
def test_what_the_server_says_counts_with_header_topic_and_envelope(
    message: Message, flow: str, payload_bytes: int
) -> None:
    ledger = Ledger()
    for _ in range(2):
        ledger.publish(message, published("some/topic", message).wire_bytes)
    # type 1, remaining length 1 or 2, length of the topic 2, topic 10, message; with QoS 1 an identifier 2
    small = payload_bytes in (5, 7)
    packet_bytes = 14 + len(encode(message)) + (0 if small else 3 if payload_bytes else 2)
    assert ledger.flows.pop(flow) == Flow(2, 2 * payload_bytes, 2 * packet_bytes, 0)
    assert set(map(str, ledger.flows.values())) == {str(Flow())}
    assert (ledger.received, ledger.sent) == (0, 2)


def test_bytes_that_are_no_message_are_control() -> None:
    ledger = Ledger()
    ledger.receive_undecodable(40)
    ledger.receive_undecodable(60)
    assert ledger.flows[CONTROL] == Flow(2, 0, 100, 0)
    assert ledger.received == 0


def test_refusals_are_counted_by_reason_and_the_last_one_of_each_sender_is_kept() -> None:
    ledger = Ledger()
    for sender, reason, detail in (("a", "order", "one"), ("a", "order", "two"), ("b", "shape", "three")):
        ledger.reject(sender, reason, detail)
    assert ledger.rejected == {"order": 2, "shape": 1}
    assert ledger.refused_of == {"a": "two", "b": "three"}


def test_a_batch_counts_once_as_float32_each_way_and_once_in_the_papers_accounting() -> None:
    ledger = Ledger()
    batch = Activations(1, 1, 0, 1, 3, bytes(12), bytes(2))
    ledger.exchange(Int8(), batch, 4)
    ledger.exchange(Float32(), batch, 4)
    assert ledger.flows["activations_up"].raw_float32_bytes == 2 * 4 * 3 * 4
    assert ledger.flows["gradient_down"].raw_float32_bytes == 2 * 4 * 3 * 4
    before, after = 64 * 3 * 4, Int8().paper_bits(3, 4, 12) + Float32().paper_bits(3, 4, 12)
    assert ledger.paper_bits == [2 * before, after]


def test_a_tensor_counts_in_its_own_flow_only() -> None:
    ledger = Ledger()
    ledger.tensor("head_state_down", 1, 5)
    ledger.tensor("head_state_down", 2, 3)
    assert {name: flow.raw_float32_bytes for name, flow in ledger.flows.items() if flow != Flow()} == {
        "head_state_down": 4 * 5 + 4 * 6
    }
