"""A client with an early cut is told of its own part of the head, and what it sends has that part's sizes."""

from dataclasses import replace

import msgspec

from broker.machine.actions import Online
from broker.wire.messages import Assignment, Gradient, Hello, Welcome
from scenarios.heads.parts import HeadForm
from server_node.vocabulary.head_share import HeadShare
from server_node.vocabulary.jobs import HeadEncoded
from server_node.vocabulary.ledger import FLOWS
from tests.protocol.test_server_core import HEAD, PLAN, D, P, Server, activations, hello, said, update

PART = HeadShare("first", 2 * D, HeadForm(1), 0.25, b"part")
EARLY = replace(PLAN, clients=("a", "b"), early={"a": PART}, initial_head=b"whole head")
ENCODED = HeadEncoded(HEAD, {"first": bytes(4)})


def begun() -> tuple[Server, dict[str, Assignment]]:
    """Let both clients join; gives their assignments."""
    server = Server(EARLY, encoded=ENCODED)
    server.handle(Online())
    server.work()
    server.hear("a", hello())
    actions = server.hear("b", hello())
    return server, {name: message for name, message in said(actions) if isinstance(message, Assignment)}


def test_each_gets_what_it_has_of_the_head() -> None:
    _, assigned = begun()
    assert {name: each.head for name, each in assigned.items()} == {"a": bytes(4), "b": HEAD}


def test_one_without_the_code_is_told_the_size_at_its_cut() -> None:
    server = Server(EARLY, encoded=ENCODED)
    server.handle(Online())
    told = [
        message
        for name in ("a", "b")
        for _, message in said(server.hear(name, Hello(1, "same", 9, wants_welcome=True)))
        if isinstance(message, Welcome)
    ]
    assert [(each.cut_size, each.head) for each in told] == [(2 * D, b"part"), (D, b"whole head")]


def test_batches_and_updates_have_the_sizes_of_the_part() -> None:
    server, _ = begun()
    server.hear("a", activations())
    assert server.ledger.rejected == {"shape": 1}
    server.hear("a", msgspec.structs.replace(activations(), payload=bytes(8 * D)))
    server.hear("b", activations())
    answered = [name for _ in range(2) for name, m in said(server.work()) if isinstance(m, Gradient)]
    assert sorted(answered) == ["a", "b"]
    server.work()
    small = msgspec.structs.replace(update(), payload=bytes(4))
    server.hear("b", small)
    assert server.ledger.rejected == {"shape": 2}
    server.hear("b", update())
    server.hear("a", small)
    sent = {flow: server.ledger.flows[flow].raw_float32_bytes for flow in FLOWS}
    assert sent == {
        "activations_up": 4 * 3 * D,
        "gradient_down": 4 * 3 * D,
        "head_update_up": 4 * (1 + P),
        "head_state_down": 4 * (1 + P),
    }
