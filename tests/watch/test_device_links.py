"""What devices' links carry, worked out at the server: against messages by hand, and against virtual time."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.machine.actions import Online, Publish, Received, Undecodable
from broker.transports.memory import MemoryBroker
from broker.wire import topics
from broker.wire.chunks import wire_bytes
from broker.wire.errors import WireError
from broker.wire.link_bytes import GOODBYE, PING, OnLink, connection_on_link, message_on_link
from broker.wire.messages import (
    Activations,
    Ask,
    Claim,
    Gradient,
    Hello,
    Message,
    Progress,
    RunScenario,
    RunState,
    Standing,
    Status,
)
from broker.wire.packing import encoded_bytes
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.board.device_links import DeviceLinks
from server_node.live import serve
from server_node.summary import LinkBytes, Summary
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.ledger import Ledger
from sim.commands.progress import summary_table
from sim.simulation.run import simulate
from tests import small_task
from tests.helpers import plan_of, small_scenario

CLIENTS = ("c0", "c1", "c2", "c3")


class Says:
    """A state machine that says what it is told to."""

    def __init__(self) -> None:
        self.next: list[ServerAction] = []

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        del event, now_s
        said, self.next = self.next, []
        return said


class Server:
    """Links of the small fleet, and who speaks there."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.core = Ledger(), Says()
        plan = plan_of(small_scenario(folder), small_task.task())
        assert plan.clients == CLIENTS
        self.links = DeviceLinks(self.core, plan, self.ledger, lambda client: f"run-{client}")

    def hears(self, client: str, message: Message, now_s: float = 0.0, size: int | None = None) -> OnLink:
        self.links.handle(Received(client, message, size or of_up(client, message)), now_s)
        return message_on_link(size or of_up(client, message))

    def says(self, topic: str, message: Message, now_s: float = 0.0) -> OnLink:
        self.core.next = [Publish(topic, message)]
        self.links.handle(Online(), now_s)
        return message_on_link(wire_bytes(topic, encoded_bytes(message)))

    @property
    def up_and_down(self) -> tuple[int, int]:
        return self.ledger.links_up, self.ledger.links_down


def of_up(client: str, message: Message) -> int:
    return wire_bytes(topics.up("run", client), encoded_bytes(message))


def connection(client: str, session: int = 1) -> OnLink:
    will = topics.status("run", client), encoded_bytes(Status(online=False, session=session))
    return connection_on_link(f"run-{client}", topics.client_subscriptions("run", client), will)


def together(ups: Sequence[OnLink], downs: Sequence[OnLink] = ()) -> tuple[int, int]:
    return (
        sum(each.there for each in ups) + sum(each.back for each in downs),
        sum(each.back for each in ups) + sum(each.there for each in downs),
    )


PROGRESS = Progress(1, 0, 1, 0, Standing.WORKING)
STATE = RunState("running", 1, 2, 3, 4)


def test_a_connection_counts_once_however_often_it_is_spoken_of(tmp_path: Path) -> None:
    server = Server(tmp_path)
    said = [server.hears("c0", each) for each in (Status(online=True, session=1), Hello(1, "d", 9))]
    assert server.up_and_down == together([connection("c0"), *said])
    said.append(server.hears("c0", Status(online=True, session=2)))
    assert server.up_and_down == together([connection("c0"), connection("c0", 2), *said])


def test_the_state_goes_to_everybody_who_is_connected_and_to_who_comes_later(tmp_path: Path) -> None:
    server = Server(tmp_path)
    ups = [server.hears(name, Hello(1, "d", 9)) for name in ("c0", "c1")]
    state = server.says(topics.state("run"), STATE)
    ups.append(server.hears("c2", Hello(1, "d", 9)))
    assert server.up_and_down == together([*map(connection, CLIENTS[:3]), *ups], [state] * 3)


def test_what_servers_say_among_themselves_is_on_no_link_and_the_scenario_neither(tmp_path: Path) -> None:
    server = Server(tmp_path)
    up = server.hears("c0", Hello(1, "d", 9))
    server.says(topics.server("run"), Claim(1, 2))
    server.says(topics.scenario("run"), RunScenario(b"x" * 500))
    assert server.up_and_down == together([connection("c0"), up])


def test_a_message_that_cannot_be_read_was_on_the_link_and_a_strangers_on_another(tmp_path: Path) -> None:
    server = Server(tmp_path)
    up = server.hears("c0", Hello(1, "d", 9))
    server.links.handle(Undecodable("c0", WireError("malformed", "x"), 777), 0.0)
    server.links.handle(Undecodable("", WireError("malformed", "x"), 777), 0.0)
    server.hears("stranger", Hello(1, "d", 9))
    assert server.up_and_down == together([connection("c0"), up, message_on_link(777)])


def test_a_large_message_has_a_puback_for_each_packet(tmp_path: Path) -> None:
    server = Server(tmp_path)
    server.hears("c0", Hello(1, "d", 9))
    before = server.ledger.links_down
    large = RunScenario(bytes(300_000))
    server.hears("c0", large)
    assert server.ledger.links_down - before == message_on_link(of_up("c0", large), 3).back


def test_a_small_message_of_a_round_has_no_puback_in_either_direction(tmp_path: Path) -> None:
    server = Server(tmp_path)
    hello = server.hears("c0", Hello(1, "d", 9))
    up, down = Activations(1, 1, 0, 1, 20, bytes(99), b"t"), Gradient(1, 1, 0, 1, 0.0, bytes(2000))
    server.hears("c0", up, size=140)
    server.says(topics.down("run", "c0"), down)
    size = wire_bytes(topics.down("run", "c0"), encoded_bytes(down), qos=0)
    assert server.up_and_down == together(
        [connection("c0"), hello, OnLink(140 + 52, 52)], [OnLink(size + 2 * 52, 2 * 52)]
    )


@given(gaps_s=st.lists(st.floats(0, 200), max_size=6), leaves=st.booleans())
def test_silences_are_full_of_pings_and_the_end_is_a_farewell(
    tmp_path_factory: pytest.TempPathFactory, gaps_s: list[float], leaves: bool
) -> None:
    server, now_s, pings = Server(tmp_path_factory.mktemp("run")), 5.0, 0
    ups, downs = [connection("c0"), server.hears("c0", Hello(1, "d", 9), now_s)], list[OnLink]()
    for number, gap_s in enumerate(gaps_s):
        before_s, now_s = now_s, now_s + gap_s
        pings += int((now_s - before_s) / 30)
        if number % 2:
            ups.append(server.hears("c0", PROGRESS, now_s))
        else:
            downs.append(server.says(topics.down("run", "c0"), Ask(1, 0, 1, 0), now_s))
    ups += [PING] * pings
    offline = Status(online=False, session=1)
    if leaves:
        ups += [server.hears("c0", offline, now_s), GOODBYE]
        server.says(topics.state("run"), RunState("finished", 1), now_s)
    else:
        downs.append(server.says(topics.state("run"), RunState("finished", 1), now_s))
        ups += [
            message_on_link(wire_bytes(topics.status("run", "c0"), encoded_bytes(offline))),
            GOODBYE,
        ]
    assert server.up_and_down == together(ups, downs)


async def live(folder: Path, *settings: str) -> Summary:
    """Run server and clients in this event loop, over memory."""
    scenario, broker, stop = small_scenario(folder, *settings), MemoryBroker(), asyncio.Event()
    begun, names = asyncio.Event(), client_names(scenario)
    async with asyncio.TaskGroup() as group:
        serving = serve(
            scenario, broker.transport, run=scenario.name, folder=folder / "live", stop=stop, begun=begun
        )
        server = group.create_task(serving)
        await begun.wait()
        group.create_task(host(scenario, broker.transport, run=scenario.name, names=names, stop=stop))
    return server.result()


def links_in(summary: Summary) -> LinkBytes:
    assert "links" in summary
    return summary["links"]


@pytest.mark.parametrize("settings", [(), ("flows.activations_up={codec: float32}", "task.batch_size=3")])
async def test_a_live_run_has_the_link_bytes_of_a_simulated_one(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    """Live sessions are numbers of 8 bytes more, and a simulated run ends with the server's last word."""
    rounds = "training.rounds=6"
    real = links_in(await live(tmp_path, rounds, *settings))
    timed = links_in(simulate(small_scenario(tmp_path, rounds, *settings), tmp_path / "simulated"))
    assert (real["how"], timed["how"]) == ("modelled", "counted")
    clients, run = len(CLIENTS), small_scenario(tmp_path).name
    finished = message_on_link(
        wire_bytes(topics.state(run), encoded_bytes(RunState("finished", 1, 2**31 - 1, 6, 6, "complete")))
    )
    offline = message_on_link(
        wire_bytes(topics.status(run, "c0"), encoded_bytes(Status(online=False, session=2**40)))
    )
    end_up, end_down = together([offline, GOODBYE], [finished])
    sessions = 3 * 8  # in the will, in Status and in Hello
    assert real["up"] - timed["up"] == clients * (end_up + sessions)
    assert real["down"] - timed["down"] == pytest.approx(clients * end_down, abs=4 * 9 * clients)  # tokens


async def test_the_summary_says_both_and_the_rows_say_when(tmp_path: Path) -> None:
    summary = await live(tmp_path, "training.rounds=2")
    links = links_in(summary)
    packets = sum(flow["wire"] for flow in summary["bytes"].values())
    assert links["up"] + links["down"] > packets
    assert links["ratio"] is not None
    assert summary["ratio"]["total_both_directions"] is not None
    assert links["ratio"] < summary["ratio"]["total_both_directions"]
    assert "on the devices' links, with TCP/IP (modelled): " in summary_table(summary)
