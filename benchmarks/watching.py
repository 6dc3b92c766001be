"""What it costs a live server to be watched, in processor time, part by part.

    .venv/bin/python -m benchmarks.watching [--clients 500]

Three parts: what the board adds to each event of the state machine; the look once a second at a fleet that
has changed in all its parts; the publication of one page over mosquitto. The last line puts them together for
a server that does 775 client steps a second, with as many pages a second as the bulletin's pauses allow.

    .venv/bin/python -m benchmarks.watching --live [--clients 64]

A real run over mosquitto instead, of a task with next to no computation, with one edge process. In turns the
server publishes its pages and does not; its process is asked for its processor time at the end of the first
round and at that of the last.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.scale import scenario_file
from broker.servers.spawn import local_broker
from broker.transports.bulletin import PAUSE_S, PAUSES
from broker.transports.mqtt import MqttTransport
from broker.wire import topics
from server_node.board.board import Board
from server_node.board.pages import MAX_PAGE_BYTES, encode
from server_node.board.views import Views
from server_node.protocol.core import ServerCore
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan, RoundPolicy
from server_node.vocabulary.reports import Fact, RoundReport
from sim.live.run import run_here
from tests.protocol.world import PLAN, Server, World

STEPS_A_SECOND = 775
"""Of a trivial task with 64 clients on two cores."""


class TimedCore:
    """A state machine, with a board before it or without, that adds up its processor time."""

    def __init__(self, core: ServerCore, handle: Callable[[ServerEvent, float], list[ServerAction]]) -> None:
        self.used_s = 0.0
        self._core = core
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def handle(self, event: ServerEvent, now_s: float) -> list[ServerAction]:
        """Take one event."""
        begin_s = time.process_time()
        actions = self._handle(event, now_s)
        self.used_s += time.process_time() - begin_s
        return actions


class Timed(World):
    """A world whose server is timed."""

    watched = False

    def start_server(self, *, takeover: bool = False) -> None:
        """Start the only server."""
        assert not takeover
        ledger = Ledger()
        core = ServerCore(self.plan, ledger)
        self.board = Board(core, self.plan, ledger, {})
        self.views = Views(self.board, self.plan, ledger, [], metric="accuracy", epoch_s=0.0)
        timed: Any = TimedCore(core, self.board.handle if self.watched else core.handle)
        self.servers.append(Server(timed))
        self.connect_server(self.server)

    @property
    def used_s(self) -> float:
        """Processor time of the server's state machine so far."""
        timed: Any = self.server.core
        return float(timed.used_s)


class Watched(Timed):
    """The same with a board."""

    watched = True


def steps_of(plan: Plan) -> int:
    """Give the client steps of a run."""
    return plan.rounds * plan.cohort * plan.steps


async def publish(url: str, messages: int) -> float:
    """Publish pages of the largest size one after the other; give processor seconds for each."""
    page = b"x" * MAX_PAGE_BYTES
    async with MqttTransport(url, client_id="bench", subscriptions=[]) as transport:
        begin_s = time.process_time()
        for number in range(messages):
            await transport.publish(topics.watch("bench", f"clients/{number % 40}"), page, retain=True)
        return (time.process_time() - begin_s) / messages


def live(clients: int, rounds: int, settings: Sequence[str]) -> tuple[float, int]:
    """Do a run; give the processor seconds of its server, without those of the first round, and its steps."""
    used: list[tuple[float, int]] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            used.append((time.process_time(), fact.client_steps))

    with tempfile.TemporaryDirectory() as name:
        file = str(scenario_file(Path(name), clients, clients, 20, rounds=rounds))
        run_here(file, settings, folder=Path(name) / "run", processes=1, watch=watch)
    return used[-1][0] - used[0][0], sum(steps for _, steps in used[1:])


def live_pairs(clients: int, rounds: int, pairs: int) -> None:
    """Do runs in turns, with pages and without, and print what they took."""
    for number in range(1, pairs + 1):
        unseen_s, steps = live(clients, rounds, ["broker.kind=mosquitto"])
        with tempfile.TemporaryDirectory() as folder, local_broker("mosquitto", Path(folder)) as url:
            seen_s, _ = live(clients, rounds, ["broker.kind=url", f"broker.url={url}"])
        print(
            f"{number}: {steps} steps, {1e6 * unseen_s / steps:.0f} us of the server each; with pages "
            f"{1e6 * seen_s / steps:.0f} us, {100 * (seen_s / unseen_s - 1):+.1f} %",
            flush=True,
        )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=0, help="500 if not given; 64 with --live")
    parser.add_argument("--live", action="store_true", help="measure real runs")
    parser.add_argument("--rounds", type=int, default=8, help="of a real run")
    parser.add_argument("--pairs", type=int, default=3, help="of real runs")
    options = parser.parse_args()
    if options.live:
        live_pairs(options.clients or 64, options.rounds, options.pairs)
        return
    options.clients = options.clients or 500
    fleet = tuple(f"c{number:03d}" for number in range(options.clients))
    policy = RoundPolicy(min(64, options.clients))
    plan = replace(
        PLAN, clients=fleet, cohort=policy.choose, round_policy=policy, rounds=4, steps=4, local_steps=4
    )
    used: dict[type[Timed], float] = {}
    for kind in (Timed, Watched) * 3:
        world = kind(plan)
        world.settle()
        used[kind] = min(used.get(kind, 1e9), world.used_s / steps_of(plan))
    added_s = used[Watched] - used[Timed]
    print(
        f"state machine: {1e6 * used[Timed]:.0f} us a client step; with the board {1e6 * added_s:.0f} us more"
    )
    looks = []
    for _ in range(20):
        world.board.changed.update(fleet)
        begin_s = time.process_time()
        pages = [encode(page) for _, page in world.views.view(0.0).named()]
        looks.append(time.process_time() - begin_s)
    size = sum(map(len, pages))
    print(f"a look: {1e3 * min(looks):.1f} ms; {len(pages)} pages of {size:,} bytes altogether")
    with tempfile.TemporaryDirectory() as folder, local_broker("mosquitto", Path(folder)) as url:
        page_s = asyncio.run(publish(url, 500))
    most = min(len(pages), 1 / max(PAUSE_S[0], (1 + PAUSES) * page_s))
    print(
        f"a page of {MAX_PAGE_BYTES} bytes over mosquitto: {1e3 * page_s:.2f} ms; at most {most:.0f} a second"
    )
    total = STEPS_A_SECOND * added_s + min(looks) + most * page_s
    print(f"at {STEPS_A_SECOND} steps a second: {100 * total:.1f} % of one core")


if __name__ == "__main__":
    main()
