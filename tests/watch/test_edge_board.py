"""What an edge process shows of its clients."""

import asyncio
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.machine.actions import Compute, ComputeDone, Online, Received, StopAsked
from broker.transports.base import Frame, TransportStats
from broker.transports.memory import MemoryBroker, MemoryTransport
from broker.wire.messages import (
    Activations,
    Assignment,
    Gradient,
    HeadUpdate,
    Hello,
    Message,
    Rejected,
    Released,
    RunState,
)
from edge_client.actions import ClientAction, ClientEvent
from edge_client.board import Board, WatchedClient
from edge_client.core import ClientCore
from edge_client.jobs import ClientJob, ClientResult
from edge_client.live import host
from edge_client.watching import watching
from scenarios.schema.scenario import client_names
from tests.helpers import small_scenario

CODECS = (["float32"], ["float32"], ["float32"], ["float32"])
ASSIGNMENT = Assignment(1, 4, 1, 1, 0.1, CODECS, b"")  # type: ignore[arg-type]
ACTIVATIONS = Activations(1, 4, 0, 1, 1, b"", b"")
UPDATE = HeadUpdate(1, 4, 1, 5, 0.0, b"")


def watched(*names: str) -> tuple[Board, dict[str, WatchedClient]]:
    board = Board.of("r", names)
    for name in names:
        board.records[name].stats = TransportStats(is_connected=True, connections=1)
    return board, {
        name: WatchedClient(ClientCore("r", name, Hello(0, "d", 9)), name, board) for name in names
    }


def hears(client: WatchedClient, message: Message, at_s: float) -> list[ClientAction]:
    return client.handle(Received("", message, 1), at_s)


def job_of(action: ClientAction) -> ClientJob:
    assert isinstance(action, Compute)
    return action.job


def test_a_round_of_a_client(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "edge_client")
    board, clients = watched("a", "b")
    client, record = clients["a"], board.records["a"]
    client.handle(Online(1), 0.0)
    hears(client, RunState("running", 1, 0, 3, 10), 1.0)
    assert board.line(1.0) == "2 of 2 connected  0 computing, 0 answers"
    (first,) = hears(client, ASSIGNMENT, 2.0)
    working = "2 of 2 connected  round 4 of 10  1 computing, 0 answers"
    assert board.line(2.5) == working
    assert board.line(5.5) == f"{working}  slowest a: 3.5 s, computing"
    client.handle(ComputeDone(job_of(first), ACTIVATIONS), 6.0)
    assert (record.answers, record.compute_s, record.computing_s) == (1, 4.0, None)
    assert board.slowest() == (6.0, "a", "waits for the server")
    (work,) = hears(client, Gradient(1, 4, 0, 1, 0.0, b""), 7.0)
    client.handle(ComputeDone(job_of(work), UPDATE), 9.0)
    assert (record.answers, record.compute_s) == (2, 6.0)
    assert board.slowest() == (0.0, "", "")
    hears(client, Rejected("order"), 9.0)
    assert board.line(9.0).endswith("2 answers  1 refused")
    client.handle(StopAsked("stopped"), 9.0)
    assert not record.is_connected
    assert [record.message for record in caplog.records] == [
        "the run is running",
        "a: greets the server, with 9 samples",
        "a: takes part, first in round 4",
    ]


def test_who_is_released_is_waited_for_no_more() -> None:
    board, clients = watched("a")
    hears(clients["a"], RunState("running", 1), 0.0)
    (work,) = hears(clients["a"], ASSIGNMENT, 1.0)
    clients["a"].handle(ComputeDone(job_of(work), ACTIVATIONS), 2.0)
    assert board.slowest() == (2.0, "a", "waits for the server")
    hears(clients["a"], Released(1, 4, greet=False), 3.0)
    assert board.slowest() == (0.0, "", "")


def test_a_lost_connection_is_seen() -> None:
    board, _ = watched("a", "b")
    stats = board.records["a"].stats
    assert stats is not None
    stats.is_connected = False
    assert board.line(0.0) == "1 of 2 connected  0 computing, 0 answers"


def page(topic: str = "fl/3/r/watch/metric", **changes: Any) -> Frame:
    told = {"round": 3, "name": "accuracy", "metric": 0.75, "best": 0.8} | changes
    return Frame(topic, json.dumps(told).encode(), 1)


def test_the_runs_metric_is_shown_as_the_server_told_it() -> None:
    board, _ = watched("a")
    board.overhear(page())
    board.overhear(page("fl/3/other/watch/metric", metric=0.1))
    board.overhear(page("fl/3/r/watch/run", metric=0.2))
    board.overhear(Frame("fl/3/r/watch/metric", b"", 1))  # fedlite clear has removed it
    assert board.line(0.0) == "1 of 1 connected  accuracy 0.750 (best 0.800)  0 computing, 0 answers"
    assert board.content(0.0)["metric"] == {"round": 3, "name": "accuracy", "metric": 0.75, "best": 0.8}
    board.begin("next")
    assert board.content(0.0)["metric"] is None


@pytest.mark.parametrize(("shows", "listeners"), [(True, ["c0"]), (False, [])])
async def test_one_client_of_a_process_listens_to_the_metric_if_somebody_looks(
    shows: bool, listeners: list[str], tmp_path: Path
) -> None:
    scenario, broker, stop = small_scenario(tmp_path), MemoryBroker(), asyncio.Event()
    told = dict[str, Sequence[str]]()

    def connect(*, client_id: str, subscriptions: Sequence[str], will: Any = None) -> MemoryTransport:
        told[client_id.rpartition("-")[2]] = subscriptions
        return broker.transport(client_id=client_id, subscriptions=subscriptions, will=will)

    names = client_names(scenario)
    stop.set()
    await host(
        scenario, connect, run="r", names=names, stop=stop, board=Board.of("r", names, shows_metric=shows)
    )
    assert sorted(told) == sorted(names)
    assert [name for name, filters in told.items() if "fl/3/r/watch/metric" in filters] == listeners


@pytest.mark.parametrize(
    "changes", [{"name": "\x1b[2J"}, {"name": "n" * 25}, {"metric": "x"}, {"round": -1}, {"more": "x" * 256}]
)
def test_a_page_that_is_none_is_not_shown(changes: dict[str, Any]) -> None:
    board, _ = watched("a")
    board.overhear(page(**changes))
    assert board.metric is None


SAID: list[Message] = [
    *(ASSIGNMENT, Gradient(1, 4, 0, 1, 0.0, b""), Released(1, 4, greet=True), Rejected("order")),
    *(RunState("running", 1), RunState("gathering", 2), RunState("paused", 2), RunState("away", 1)),
]


@settings(max_examples=50)
@given(st.integers(0, 2**32))
def test_watching_changes_nothing(seed: int) -> None:
    rng = random.Random(seed)
    board, clients = watched("a")
    bare = ClientCore("r", "a", Hello(0, "d", 9))
    jobs: list[list[ClientJob]] = [[], []]
    for second in range(40):
        message = rng.choice(SAID)
        answer: ClientResult = ACTIVATIONS if rng.random() < 0.5 else UPDATE
        is_done = bool(jobs[0]) and rng.random() < 0.5
        said: list[list[ClientAction]] = []
        for handle, own in zip((clients["a"].handle, bare.handle), jobs, strict=True):
            event: ClientEvent = ComputeDone(own.pop(), answer) if is_done else Received("", message, 1)
            said.append(handle(event, float(second)))
            own += [action.job for action in said[-1] if isinstance(action, Compute)]
        assert said[0] == said[1]
        assert board.slowest()[0] <= second


def test_json_lines_tell_each_round_and_else_every_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    board, clients = watched("a")
    with watching(board, as_json=True) as look:
        for second in range(25):
            if second == 12:
                hears(clients["a"], RunState("running", 1, 0, 4, 10), 12.0)
                hears(clients["a"], ASSIGNMENT, 12.0)
            look(float(second))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["round"] for line in told] == [0, 0, 4, 4]
    slowest = {"client": "a", "seconds": 10.0, "what": "computing"}
    state = {"run": "r", "phase": "running", "round": 4, "rounds": 10, "metric": None}
    counts = {"connected": 1, "clients": 1, "computing": 1, "answers": 0, "rejected": 0}
    assert told[-1] == {**state, **counts, "slowest": slowest}
