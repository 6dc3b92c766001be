"""A standing device takes part in the runs of its fleet, one after the other; no run can end it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.errors import RefusedError
from broker.transports.base import Connect, Will
from broker.transports.memory import MemoryBroker
from broker.wire import packing, topics
from broker.wire.messages import RunScenario, RunState
from edge_client.board import Board
from edge_client.joining import host_published, stay_in_fleet
from edge_client.service.chooser import MAX_RUNS, Chooser, Offer
from edge_client.service.standing import TakePart, Watch, stand
from scenarios.loading.published import publish_scenario
from scenarios.schema.scenario import Scenario
from server_node.live import serve
from tests.helpers import small_scenario

TASK = Path(__file__).parents[1] / "small_task.py"
PHASES = ["gathering", "running", "paused", "away", "finished"]


def chooser(*heard: tuple[str, RunState | RunScenario], only: str = "") -> Chooser:
    found = Chooser(only)
    for run, message in heard:
        found.heard(run, message)
    return found


# which run


@pytest.mark.parametrize("phase", PHASES)
def test_a_run_is_joined_while_its_server_is_at_work(phase: str) -> None:
    state = RunState(phase, 3)  # type: ignore[arg-type]
    found = chooser(("a", state), ("a", RunScenario(b"x")))
    assert found.next() == (Offer("a", b"x", 3) if phase in ("gathering", "running") else None)


def test_a_run_needs_a_scenario_that_is_published() -> None:
    found = chooser(("a", RunState("running", 1)))
    assert found.next() is None
    found.heard("a", RunScenario(b"x"))
    assert found.next() == Offer("a", b"x", 1)


def test_a_run_under_way_comes_before_one_that_begins() -> None:
    scenario = RunScenario(b"x")
    found = chooser(
        ("a", RunState("gathering", 1)),
        ("a", scenario),
        ("b", RunState("running", 1)),
        ("b", scenario),
    )
    assert found.next() == Offer("b", b"x", 1)
    found.refuse(Offer("b", b"x", 1))
    assert found.next() == Offer("a", b"x", 1)


def test_what_was_refused_is_tried_again_when_scenario_or_server_are_others() -> None:
    found = chooser(("a", RunState("running", 1)), ("a", RunScenario(b"x")))
    found.refuse(Offer("a", b"x", 1))
    assert found.next() is None
    found.heard("a", RunState("running", 2))
    assert found.next() == Offer("a", b"x", 2)
    found.refuse(Offer("a", b"x", 2))
    found.heard("a", RunScenario(b"y"))
    assert found.next() == Offer("a", b"y", 2)


def test_a_device_of_one_run_takes_no_other() -> None:
    heard = [(run, message) for run in "ab" for message in (RunState("running", 1), RunScenario(b"x"))]
    assert chooser(*heard, only="b").next() == Offer("b", b"x", 1)


def test_what_is_no_longer_published_is_forgotten_and_what_was_refused_is_not() -> None:
    found = chooser(("a", RunState("running", 1)), ("a", RunScenario(b"x")))
    found.refuse(Offer("a", b"x", 1))
    found.begin()
    assert found.next() is None
    found.heard("a", RunState("running", 1))
    found.heard("a", RunScenario(b"x"))
    assert found.next() is None
    found.cleared("a")
    assert found.next() is None


messages = st.one_of(
    st.builds(RunState, st.sampled_from(PHASES), st.integers(1, 3)),
    st.builds(RunScenario, st.binary(max_size=1)),
)
events = st.lists(
    st.tuples(st.integers(0, 2 * MAX_RUNS).map(lambda number: f"r{number}"), messages), max_size=60
)


@given(events, st.booleans())
def test_every_offer_is_of_a_server_at_work_and_no_offer_comes_twice(
    heard: list[tuple[str, RunState | RunScenario]], refuses: bool
) -> None:
    found, offered = Chooser(), set[Offer]()
    states, scenarios = dict[str, RunState](), dict[str, bytes]()
    for run, message in heard:
        found.heard(run, message)
        if isinstance(message, RunState):
            states[run] = message
        else:
            scenarios[run] = message.packed
        offer = found.next()
        if offer is not None:
            assert states[offer.run].phase in ("gathering", "running")
            assert (states[offer.run].server, scenarios[offer.run]) == (offer.server, offer.packed)
            if refuses:
                assert offer not in offered
                offered.add(offer)
                found.refuse(offer)


def test_what_is_kept_of_runs_is_bounded() -> None:
    found = Chooser()
    for number in range(3 * MAX_RUNS):
        found.heard(f"r{number}", RunState("running", 1))
        found.is_news(f"r{number}", "news")
    assert len(found._runs) == MAX_RUNS


# taking part


class Standing:
    """A standing device on a broker, and what it said."""

    def __init__(
        self, connect: Connect, name: str = "c0", *, only: str = "", patience_s: float = 60.0
    ) -> None:
        self.stop, self.said = asyncio.Event(), list[str]()
        self.taken = list[str]()
        self._connect, self._name, self._only, self._patience_s = connect, name, only, patience_s

    async def take_part(self, offer: Offer, watch: Watch, stop: asyncio.Event) -> dict[str, str]:
        self.taken.append(offer.run)
        return await host_published(
            offer.packed,
            lambda _scenario: watch(self._connect),
            run=offer.run,
            names=[self._name],
            stop=stop,
            module=str(TASK),
        )

    async def stand(self, take_part: TakePart | None = None) -> dict[str, str]:
        return await stand(
            self._connect,
            take_part or self.take_part,
            names=[self._name],
            stop=self.stop,
            only=self._only,
            say=self.said.append,
            patience_s=self._patience_s,
        )

    def count(self, words: str) -> int:
        return sum(words in line for line in self.said)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def of_two(folder: Path, *settings: str) -> Scenario:
    return small_scenario(folder, "fleet=[{count: 2}]", "training.cohort=2", "training.rounds=2", *settings)


async def test_a_device_takes_part_in_two_runs_one_after_the_other(
    tmp_path: Path, connect: Connect, run_name: str
) -> None:
    scenario, devices = of_two(tmp_path), [Standing(connect, name) for name in ("c0", "c1")]
    runs = [f"{run_name}-{number}"[-32:] for number in (1, 2)]
    async with asyncio.TaskGroup() as group:
        standing = [group.create_task(device.stand()) for device in devices]
        for run in runs:
            summary = await serve(scenario, connect, run=run, folder=tmp_path / run, stop=asyncio.Event())
            assert (summary["reason"], summary["rounds"]) == ("complete", 2)
            await until(lambda run=run: all(d.count(f"left run {run}: complete") for d in devices))  # type: ignore[misc]
        for device in devices:
            device.stop.set()
    assert [task.result() for task in standing] == [{"c0": "stopped"}, {"c1": "stopped"}]
    assert [[run for run in device.taken if run in runs] for device in devices] == [runs, runs]


def offers(broker: MemoryBroker, run: str, packed: bytes, phase: str = "running", server: int = 1) -> None:
    broker.publish(topics.scenario(run), packing.encode(RunScenario(packed)), retain=True)
    broker.publish(topics.state(run), packing.encode(RunState(phase, server)), retain=True)  # type: ignore[arg-type]


async def test_runs_that_cannot_be_taken_part_in_are_told_once_and_the_next_is_taken(tmp_path: Path) -> None:
    broker = MemoryBroker()
    offers(broker, "a-broken", b"no scenario")
    offers(broker, "b-of-others", publish_scenario(small_scenario(tmp_path, "fleet=[{names: [x, y, z]}]")))
    broker.publish("fl/4/c-newer/state", b"\x93\x03\x03\x01", retain=True)
    broker.publish("fl/3/d-garbage/state", b"garbage", retain=True)
    device = Standing(broker.transport)
    async with asyncio.TaskGroup() as group:
        group.create_task(device.stand())
        await until(lambda: len(device.said) >= 6)
        offers(broker, "a-broken", b"no scenario")  # once more
        scenario = of_two(tmp_path)
        other = Standing(broker.transport, "c1")
        group.create_task(other.stand())
        await serve(scenario, broker.transport, run="good", folder=tmp_path / "r", stop=asyncio.Event())
        await until(lambda: bool(device.count("left run good: complete")))
        device.stop.set()
        other.stop.set()
    for run in ("a-broken", "b-of-others", "c-newer", "d-garbage"):
        assert device.count(f"run {run} is left out: ") == 1, device.said
    assert device.count("no such client: c0") == 1


@pytest.mark.parametrize("error", [ValueError("a bug in the task"), MemoryError(), RefusedError("no rights")])
async def test_no_error_within_a_run_ends_the_device(error: Exception) -> None:
    broker, device = MemoryBroker(), Standing(MemoryBroker().transport)
    device = Standing(broker.transport)
    offers(broker, "first", b"1")

    async def take_part(offer: Offer, _watch: Watch, _stop: asyncio.Event) -> dict[str, str]:
        device.taken.append(offer.run)
        if offer.run == "first":
            raise ExceptionGroup("of the clients", [error])
        return {"c0": "complete"}

    async with asyncio.TaskGroup() as group:
        standing = group.create_task(device.stand(take_part))
        await until(lambda: bool(device.count("run first is left out: ")))
        offers(broker, "second", b"2")
        await until(lambda: bool(device.count("left run second: complete")))
        device.stop.set()
    assert standing.result() == {"c0": "stopped"}
    assert device.taken == ["first", "second"]


async def test_a_broker_that_refuses_the_device_itself_ends_it() -> None:
    class Refusing:
        async def __aenter__(self) -> None:
            raise RefusedError("bad user name or password")

    def connect(
        *, client_id: str, subscriptions: object, will: Callable[[int], Will] | None = None
    ) -> Refusing:
        assert (client_id, will) == ("c0", None)
        assert subscriptions
        return Refusing()

    with pytest.raises(RefusedError, match="bad user name"):
        await Standing(connect).stand()  # type: ignore[arg-type]


async def test_a_device_leaves_a_run_that_stays_paused_and_takes_it_up_again(tmp_path: Path) -> None:
    broker, packed = MemoryBroker(), publish_scenario(of_two(tmp_path))
    offers(broker, "first", packed)
    device = Standing(broker.transport, patience_s=0.1)
    async with asyncio.TaskGroup() as group:
        group.create_task(device.stand())
        await until(lambda: topics.status("first", "c0") in broker.retained)
        offers(broker, "first", packed, "away")
        await until(lambda: bool(device.count("run first is paused")))
        offers(broker, "second", packed)
        await until(lambda: device.taken == ["first", "second"])
        offers(broker, "second", packed, "finished")
        await until(lambda: bool(device.count("left run second")))
        offers(broker, "first", packed, server=2)
        await until(lambda: device.taken == ["first", "second", "first"])
        device.stop.set()


async def test_the_board_is_that_of_the_run_under_way(tmp_path: Path) -> None:
    broker, packed = MemoryBroker(), publish_scenario(of_two(tmp_path))
    board, stop = Board.of("", ["c0"]), asyncio.Event()
    offers(broker, "first", packed)
    staying = stay_in_fleet(
        broker.transport,
        connect_for=lambda _scenario: broker.transport,
        run="",
        names=["c0"],
        stop=stop,
        module=str(TASK),
        board=board,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(staying)
        await until(lambda: board.records["c0"].is_connected)
        assert board.run == "first"
        board.records["c0"].answers = 7
        offers(broker, "first", packed, "finished")
        offers(broker, "second", packed)
        await until(lambda: board.run == "second" and board.records["c0"].is_connected)
        assert (board.records["c0"].answers, board.records["c0"].reason) == (0, "")
        stop.set()


async def test_a_short_pause_keeps_the_device_in_its_run(tmp_path: Path) -> None:
    broker, packed = MemoryBroker(), publish_scenario(of_two(tmp_path))
    offers(broker, "first", packed)
    device = Standing(broker.transport, patience_s=0.3)
    async with asyncio.TaskGroup() as group:
        group.create_task(device.stand())
        await until(lambda: topics.status("first", "c0") in broker.retained)
        offers(broker, "first", packed, "paused")
        await asyncio.sleep(0.05)
        offers(broker, "first", packed, server=2)
        await asyncio.sleep(0.5)
        assert device.count("paused") == 0
        device.stop.set()
    assert device.taken == ["first"]


async def test_a_run_whose_broker_has_forgotten_it_is_not_taken(tmp_path: Path) -> None:
    broker, packed = MemoryBroker(), publish_scenario(of_two(tmp_path))
    device = Standing(broker.transport)
    offers(broker, "first", packed)
    offers(broker, "second", packed)

    async def take_part(offer: Offer, _watch: Watch, _stop: asyncio.Event) -> dict[str, str]:
        device.taken.append(offer.run)
        for topic in (topics.state("second"), topics.scenario("second")):
            broker.publish(topic, b"", retain=True)
        return {"c0": "complete"}

    async with asyncio.TaskGroup() as group:
        group.create_task(device.stand(take_part))
        await until(lambda: bool(device.count("left run first")))
        await asyncio.sleep(0.7)
        device.stop.set()
    assert device.taken == ["first"]
