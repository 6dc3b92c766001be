"""What trackers and observers are told, and that none of them can end a run."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from broker.cli.commands import app
from broker.errors import RunError
from broker.transports.memory import MemoryBroker
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.summary import Summary
from server_node.trackers import relay
from server_node.trackers.events import Event, Tell
from server_node.trackers.opening import telling_trackers
from server_node.trackers.own import own_observer
from server_node.trackers.relay import Relay
from sim.simulation.run import simulate
from tests.helpers import small_file, small_scenario

Observing = Callable[[str], Path]


def simulated(folder: Path, tell: Tell, *settings: str) -> Summary:
    return simulate(small_scenario(folder, *settings), folder / "run", tell=tell)


async def live(folder: Path, tell: Tell, *settings: str) -> Summary:
    scenario, connect, stop = small_scenario(folder, *settings), MemoryBroker().transport, asyncio.Event()
    names, begun = client_names(scenario), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        server = group.create_task(
            serve(scenario, connect, run="here", folder=folder / "run", stop=stop, begun=begun, tell=tell)
        )
        await begun.wait()
        group.create_task(host(scenario, connect, run="here", names=names, stop=stop))
    return server.result()


@pytest.fixture
def observing(tmp_path: Path) -> Observing:
    def write(body: str) -> Path:
        path = tmp_path / "my.py"
        path.write_text(f"def observe(event):\n    {body}\n")
        return path

    return write


@pytest.mark.parametrize("mode", ["live", "simulate"])
def test_a_run_is_told_from_its_beginning_to_its_end(tmp_path: Path, mode: str) -> None:
    heard: list[Event] = []
    told = asyncio.run(live(tmp_path, heard.append)) if mode == "live" else simulated(tmp_path, heard.append)
    begin, *rounds, end = [event for event in heard if event["event"] != "noticed"]
    assert (begin["event"], begin["mode"], begin["rounds_done"]) == ("begin", mode, 0)
    assert begin["seconds"] == {"live": "wall", "simulate": "virtual"}[mode]
    assert begin["settings"]["flows"]["activations_up"]["codec"] == "pq"
    rows = pq.read_table(tmp_path / "run/metrics.parquet").to_pylist()
    assert rounds == [{"event": "round", **row, "rejected": 0} for row in rows]
    assert len(rounds) == 20
    assert end == {"event": "end", "reason": "complete", "summary": told}
    assert [json.loads(json.dumps(event, allow_nan=False)) for event in heard] == heard


def test_a_run_that_goes_on_says_how_many_rounds_are_done(tmp_path: Path) -> None:
    heard: list[Event] = []
    for rounds in (6, 9):
        asyncio.run(live(tmp_path, heard.append, f"training.rounds={rounds}"))
    assert [event["rounds_done"] for event in heard if event["event"] == "begin"] == [0, 6]
    assert [event["round"] for event in heard if event["event"] == "round"] == list(range(1, 10))


def test_no_event_has_the_password_of_a_broker(tmp_path: Path) -> None:
    heard: list[Event] = []
    simulated(tmp_path, heard.append, "broker={kind: url, url: 'mqtt://dev:pA55-word@h'}")
    assert heard[0]["settings"]["broker"]["url"] == "mqtt://dev@h:1883"
    assert "pA55-word" not in json.dumps(heard)


def test_a_run_that_fails_ends_for_its_observers_too(tmp_path: Path, observing: Observing) -> None:
    note = tmp_path / "heard"
    write = f"__import__('pathlib').Path({str(note)!r}).write_text(repr(event))"
    with pytest.raises(ZeroDivisionError), telling_trackers((), [str(observing(write))], tmp_path):
        raise ZeroDivisionError
    assert note.read_text() == "{'event': 'end', 'reason': 'failed', 'summary': None}"


@given(st.lists(st.booleans(), max_size=30))
def test_an_observer_hears_every_event_in_order_whatever_it_raises(fails: list[bool]) -> None:
    heard: list[int] = []

    def sink(events: Sequence[Event]) -> None:
        [event] = events
        heard.append(event["number"])
        if fails[event["number"]]:
            raise KeyError("no such key")

    with Relay("mine", sink, at_once=1) as mine:
        for number in range(len(fails)):
            mine.tell({"event": "round", "number": number})
    assert heard == list(range(len(fails)))
    assert (mine.told, mine.failed, mine.lost) == (len(fails), sum(fails), 0)


def test_a_failing_observer_is_told_once_and_counted_and_the_run_is_the_same(
    tmp_path: Path, observing: Observing, caplog: pytest.LogCaptureFixture
) -> None:
    named = observing("raise KeyError('no key ' + event['event'])")
    with telling_trackers((), [str(named)], tmp_path) as tell:
        told = simulated(tmp_path, tell)
    assert (told["reason"], told["rounds"]) == ("complete", 20)
    first, last = (record.getMessage() for record in caplog.records if "observer" in record.getMessage())
    assert first == (f"observer {named} failed, the run goes on: KeyError: 'no key begin' ({named}, line 2)")
    assert last == f"observer {named} has not heard 22 of 22 events"


def test_an_observer_that_hangs_holds_up_no_event_and_the_end_only_for_a_while(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(relay, "CLOSE_S", 0.05)
    monkeypatch.setattr(relay, "QUEUED", 3)
    never, busy = threading.Event(), threading.Event()

    def hang(_events: Sequence[Event]) -> None:
        busy.set()
        never.wait(10)

    with Relay("slow", hang, at_once=1) as slow:
        slow.tell({"event": "begin"})
        assert busy.wait(5)
        for _ in range(5):
            slow.tell({"event": "round"})
    never.set()
    assert slow.lost == 2
    assert "slow has not heard 6 of 6 events, and does not answer" in caplog.text


def test_a_simulation_waits_for_a_slow_observer_but_not_for_one_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "QUEUED", 2)
    heard: list[Event] = []

    def slow(events: Sequence[Event]) -> None:
        threading.Event().wait(0.001)
        heard.extend(events)

    with Relay("slow", slow, patience_s=5.0) as patient:
        for number in range(50):
            patient.tell({"number": number})
    assert [event["number"] for event in heard] == list(range(50))
    monkeypatch.setattr(relay, "CLOSE_S", 0.0)
    never, busy = threading.Event(), threading.Event()

    def hang(_events: Sequence[Event]) -> None:
        busy.set()
        never.wait(10)

    with Relay("stuck", hang, at_once=1, patience_s=0.01) as stuck:
        stuck.tell({})
        assert busy.wait(5)
        for _ in range(500):  # waiting for each would take 5 s
            stuck.tell({})
    never.set()
    assert stuck.lost == 498


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("none.py", "--observer none.py: no such file: none.py"),
        ("no_such_module", "no such file, module or entry point of the group fedlite.observers"),
        ("json", "--observer json: it has no function observe(event)"),
        ("json:dumps_", "--observer json:dumps_: it has no function dumps_(event)"),
        ("{folder}/wrong.py", "wrong.py fails: ZeroDivisionError: division by zero"),
        ("{folder}/needs.py", "needs.py fails: No module named 'no_such_package'"),
    ],
)
def test_an_observer_that_cannot_be_loaded_is_told_before_the_run(
    tmp_path: Path, named: str, message: str
) -> None:
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "needs.py").write_text("import no_such_package\n")
    with pytest.raises(RunError) as told:
        own_observer(named.format(folder=tmp_path))
    assert message in str(told.value)


def test_an_observer_may_be_a_module_or_another_function(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text("def first(event):\n    event['heard'] = True\n")
    event: dict[str, Any] = {}
    own_observer(f"{tmp_path}/two.py:first")([event])
    assert event == {"heard": True}
    own_observer("json:dumps")([event])


def test_an_unknown_tracker_and_a_missing_package_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_file(tmp_path)
    words = ["simulate", str(tmp_path / "small.yaml"), f"--out={tmp_path / 'run'}"]
    told = CliRunner().invoke(app, [*words, "--log", "tensorbord"])
    assert told.exit_code == 2
    assert "--log tensorbord: no such tracker; did you mean 'tensorboard'?" in told.output
    monkeypatch.setitem(sys.modules, "server_node.trackers.mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.delitem(sys.modules, "server_node.trackers.mlflow")
    told = CliRunner().invoke(app, [*words, "--log", "mlflow"])
    assert told.exit_code == 2
    assert "--log mlflow needs mlflow" in told.output
    assert "pip install 'fedlite-mqtt[mlflow]' brings it" in told.output
    assert not (tmp_path / "run").exists()
