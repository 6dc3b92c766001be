"""The trace of a live run: nothing is missing, and causes come before their effects."""

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RunError
from broker.machine.event_log import Journal, MessageSeen, Notes, Span, read_notes
from broker.transports.memory import MemoryBroker
from broker.wire.messages import Gradient, HeadUpdate, Status
from edge_client.live import host
from scenarios.loading.load import dump_resolved
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.vocabulary.ledger import FLOWS
from sim.chrome_trace import Trace
from sim.live.join_trace import live_trace
from sim.live.run import run_here
from tests.helpers import small_file, small_scenario

STEP = ["decode", "backward"]
TO_THE_SERVER = ["compute", "encode", "uplink", "queue", "tail", "downlink"]
ROUND_OF_TWO_STEPS = ["downlink", "decode", *TO_THE_SERVER, *STEP, *TO_THE_SERVER, *STEP, "encode", "uplink"]


def lanes_of(trace: Trace, folder: Path) -> dict[str, list[dict[str, Any]]]:
    trace.write(folder / "trace.json")
    return lanes_in(folder / "trace.json")


def lanes_in(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Give the spans of each lane in the order of their beginnings."""
    events = json.loads(file.read_text())["traceEvents"]
    named = [event for event in events if event["name"] == "process_name"]
    names = {event["pid"]: event["args"]["name"].partition(" (")[0] for event in named}
    lanes: dict[str, list[dict[str, Any]]] = {name: [] for name in names.values()}
    for event in sorted((event for event in events if event["ph"] == "X"), key=lambda event: event["ts"]):
        lanes[names[event["pid"]]].append(event)
    return lanes


def assert_one_after_the_other(spans: list[dict[str, Any]]) -> None:
    for span, following in itertools.pairwise(spans):
        assert span["ts"] + span["dur"] <= following["ts"] + 0.001


def assert_whole_rounds(spans: list[dict[str, Any]]) -> int:
    """Check a client's lane; give the rounds that it took part in."""
    names = [span["name"] for span in spans]
    rounds = len(names) // len(ROUND_OF_TWO_STEPS)
    assert names == rounds * ROUND_OF_TWO_STEPS
    assert_one_after_the_other(spans)
    return rounds


async def test_every_step_has_all_its_spans_one_after_the_other(tmp_path: Path) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=3", "training.local_steps=2")
    names, stop, connect = client_names(scenario), asyncio.Event(), MemoryBroker().transport
    journal = Journal(names)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        server_task = group.create_task(
            serve(scenario, connect, run="small", folder=tmp_path / "run", stop=stop, journal=journal)
        )
        group.create_task(host(scenario, connect, run="small", names=names, stop=stop, journal=journal))
    server, *clients = lanes_of(live_trace(names, [journal.notes]), tmp_path).values()
    assert sum(map(assert_whole_rounds, clients)) == 3 * 3
    assert_one_after_the_other(server)
    assert {span["name"] for span in server} == {"EncodeHead", "TailStep", "TailUpdate", "CloseRound"}
    ways = [span["args"] for spans in clients for span in spans if span["name"] in ("uplink", "downlink")]
    assert {args["round"] for args in ways} == {1, 2, 3}
    assert {args.get("step") for args in ways} == {None, 0, 1}
    wire_bytes = server_task.result()["bytes"]
    assert sum(args["bytes"] for args in ways) == sum(wire_bytes[flow]["wire"] for flow in FLOWS)


@pytest.mark.slow
def test_processes_of_a_real_run_share_one_timeline(tmp_path: Path) -> None:
    summary = run_here(
        str(small_file(tmp_path)),
        ["training.rounds=3", "training.local_steps=2"],
        folder=tmp_path / "run",
        processes=2,
        watch=lambda _fact, _ledger: None,
    )
    _, *clients = lanes_in(tmp_path / "run/trace.json").values()
    assert 2 * sum(map(assert_whole_rounds, clients)) == summary["client_steps"] == 18


def edge_and_server(*, boots: tuple[str, str]) -> list[Notes]:
    """Give journals of a message that took 3 s by the wall clocks, and 3 - 1000 + 1 s by the others."""
    arrival = MessageSeen("c0", "HeadUpdate", 4, None, 1, 70, at_s=6.0)
    server = Notes(boots[0], wall_s=1000.0, sightings=[arrival])
    edge = Notes(
        boots[1], wall_s=1.0, sightings=[MessageSeen("c0", "HeadUpdate", 4, None, 1, 0, at_s=1002.0)]
    )
    edge.spans.append(Span("c0", "encode", 1001.0, 1002.0))
    return [server, edge]


def test_journals_of_other_machines_are_set_right_by_the_wall_clocks(tmp_path: Path) -> None:
    for boots in (("one", "another"), ("", "")):
        spans = lanes_of(live_trace(["c0"], edge_and_server(boots=boots)), tmp_path)["c0"]
        assert [(span["name"], span["ts"], span["dur"]) for span in spans] == [
            ("encode", 0.0, 1e6), ("uplink", 1e6, 3e6),
        ]  # fmt: skip


def test_journals_of_one_machine_need_no_wall_clock(tmp_path: Path) -> None:
    journals = edge_and_server(boots=("one", "one"))
    journals[0].sightings[0] = MessageSeen("c0", "HeadUpdate", 4, None, 1, 70, at_s=1002.5)
    spans = lanes_of(live_trace(["c0"], journals), tmp_path)["c0"]
    assert [(span["name"], span["dur"]) for span in spans] == [("encode", 1e6), ("uplink", 5e5)]


def test_what_arrives_twice_or_before_it_left_is_shown_at_most_once(tmp_path: Path) -> None:
    seen = [
        MessageSeen("c0", "Gradient", 1, 0, 1, wire_bytes, at_s)
        for at_s, wire_bytes in ((1.0, 0), (2.0, 50), (3.0, 50))
    ]
    early = [MessageSeen("c0", "Gradient", 2, 0, 1, wire, at_s) for at_s, wire in ((4.0, 50), (5.0, 0))]
    spans = lanes_of(live_trace(["c0"], [Notes("b", 0.0, sightings=seen + early)]), tmp_path)["c0"]
    assert [(span["name"], span["dur"]) for span in spans] == [("downlink", 1e6)]


def test_a_server_without_journals_of_its_clients_has_a_trace(tmp_path: Path) -> None:
    arrived = MessageSeen("c0", "Activations", 1, 0, 1, 90, at_s=1.0)
    notes = Notes("b", 0.0, spans=[Span("c0", "tail", 1.5, 2.0, 1, 0)], sightings=[arrived])
    spans = lanes_of(live_trace(["c0"], [notes]), tmp_path)["c0"]
    assert [span["name"] for span in spans] == ["queue", "tail"]


def test_a_journal_is_bounded_and_the_trace_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.machine.event_log.MAX_NOTES", 3)
    journal = Journal(["c0"])
    for number in range(5):
        journal.span("c0", "encode", number, number + 0.5)
    assert len(journal.notes.spans) == 3
    trace = live_trace(["c0"], [journal.notes])
    trace.write(tmp_path / "trace.json")
    extent = json.loads((tmp_path / "trace.json").read_text())["otherData"]
    assert (extent["spans"], extent["spans_left_out_at_the_end"]) == (3, 2)


def test_a_journal_survives_its_file(tmp_path: Path) -> None:
    journal = Journal(["c0"])
    journal.left("fl/3/run/d/c0", Gradient(1, 3, 1, 1, 0.0, b"x"))
    journal.arrived("fl/3/run/d/c0", Gradient(1, 3, 1, 1, 0.0, b"x"), 77)
    journal.arrived("fl/3/run/d/c9", Gradient(1, 3, 1, 1, 0.0, b"x"), 77)  # not in the fleet's first clients
    journal.left("fl/3/run/status/c0", Status(online=True, session=1))  # has no tensor
    journal.write(tmp_path / "journal")
    assert read_notes(tmp_path / "journal") == journal.notes
    assert [(seen.round, seen.step, seen.wire_bytes) for seen in journal.notes.sightings] == [
        (3, 1, 0), (3, 1, 77),
    ]  # fmt: skip


def test_the_command_joins_what_server_and_edges_left(tmp_path: Path) -> None:
    (tmp_path / "scenario.yaml").write_text(dump_resolved(small_scenario(tmp_path)))
    server, edge = Journal(["c0"]), Journal(["c0"])
    edge.left("fl/3/run/u/c0", HeadUpdate(1, 1, 1, 5, 0.0, b"x"))
    server.arrived("fl/3/run/u/c0", HeadUpdate(1, 1, 1, 5, 0.0, b"x"), 60)
    server.write(tmp_path / "journal.json")
    edge.write(tmp_path / "pi")
    done = CliRunner().invoke(app, ["trace", str(tmp_path), str(tmp_path / "pi")], catch_exceptions=False)
    assert done.output.split() == ["wrote", str(tmp_path / "trace.json")]
    assert [span["name"] for span in lanes_in(tmp_path / "trace.json")["c0"]] == ["uplink"]


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("[]")
    with pytest.raises(RunError, match="journal is no journal of a run"):
        read_notes(tmp_path / "journal")
