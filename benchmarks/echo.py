"""Requests a second of many clients in one process, against a bare echo of aiomqtt with the same sizes.

    .venv/bin/python -m benchmarks.echo [--clients 64] [--repeats 3]

Ours is a live run of a task with next to no computation (benchmarks/tiny_task.py) over Mosquitto: a request
is a client's activations, the answer their gradient, and head updates and averages come on top. The echo has
as many aiomqtt clients in one process, each of which sends a packet as long as the run's activations and
waits for one as long as its gradient, and one client in another process that answers; with the QoS that ours
has for messages of that size. They take turns. `cpu` is the processor time of the clients' process for one
request.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import aiomqtt
import psutil

from benchmarks.scale import scenario_file
from broker.servers.spawn import LOCALHOST, local_broker
from broker.urls import parse_url
from broker.wire.chunks import mqtt_packet_bytes
from broker.wire.messages import Activations
from broker.wire.packing import qos_of
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from sim.live.run import run_here

SECONDS = 10.0
_SPAWN = multiprocessing.get_context("spawn")


def _client(port: int, name: str) -> aiomqtt.Client:
    client = aiomqtt.Client(LOCALHOST, port, identifier=name)
    client.pending_calls_threshold = 1000
    return client


def _qos(payload_bytes: int) -> int:
    return qos_of(Activations(1, 1, 0, 1, 1, b"", b""), payload_bytes)


def answer(port: int, answer_bytes: int, ready: Event) -> None:
    """Answer every request, in a process of its own."""

    async def serve() -> None:
        async with _client(port, "answers") as client, asyncio.TaskGroup() as group:
            await client.subscribe("echo/+/up", qos=1)
            ready.set()
            async for message in client.messages:
                topic = message.topic.value.replace("/up", "/down")
                group.create_task(client.publish(topic, bytes(answer_bytes), _qos(answer_bytes)))

    asyncio.run(serve())


async def _ask(port: int, name: str, request_bytes: int, together: asyncio.Barrier) -> int:
    """Ask for SECONDS, from when all are connected; give how often it was answered."""
    async with _client(port, name) as client:
        await client.subscribe(f"echo/{name}/down", qos=1)
        messages = aiter(client.messages)
        await together.wait()
        count, end_s = 0, time.monotonic() + SECONDS
        while time.monotonic() < end_s:
            await client.publish(f"echo/{name}/up", bytes(request_bytes), _qos(request_bytes))
            await anext(messages)
            count += 1
        await together.wait()
        return count


async def _ask_all(port: int, clients: int, request_bytes: int) -> tuple[float, float]:
    together = asyncio.Barrier(clients + 1)
    asking = [_ask(port, f"c{number}", request_bytes, together) for number in range(clients)]
    answered = asyncio.gather(*asking)
    await together.wait()
    begin_s, used_s = time.monotonic(), time.process_time()
    await together.wait()
    took_s, used_s = time.monotonic() - begin_s, time.process_time() - used_s
    done = sum(await answered)
    return done / took_s, used_s / done


def echo(port: int, clients: int, request_bytes: int, answer_bytes: int) -> tuple[float, float]:
    """Give requests a second of the bare echo, and processor seconds of the clients' process for one."""
    ready = _SPAWN.Event()
    answering = _SPAWN.Process(target=answer, args=(port, answer_bytes, ready), daemon=True)
    answering.start()
    ready.wait(60)
    try:
        return asyncio.run(_ask_all(port, clients, request_bytes))
    finally:
        answering.kill()
        answering.join()


def ours(file: Path, folder: Path) -> tuple[dict[str, float], float, float]:
    """Run ours; give bytes of a packet by flow, steps a second and processor seconds of the edge for one.

    Both are counted from the end of the first round to that of the last.
    """
    rounds: list[tuple[float, float, int]] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            edge = next(each for each in psutil.Process().children() if "edge_client" in each.cmdline())
            used = edge.cpu_times()
            rounds.append((time.monotonic(), used.user + used.system, fact.client_steps))

    settings = ["broker.kind=mosquitto"]
    summary = run_here(str(file), settings, folder=folder, processes=1, watch=watch)
    flows = {name: flow["wire"] / summary["client_steps"] for name, flow in summary["bytes"].items()}
    steps = sum(each[2] for each in rounds[1:])
    return flows, steps / (rounds[-1][0] - rounds[0][0]), (rounds[-1][1] - rounds[0][1]) / steps


def main() -> None:
    """Run both, in turns, and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--local-steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ratios, header = [], mqtt_packet_bytes("echo/c10/down", 0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = scenario_file(
            folder, options.clients, options.clients, options.local_steps, rounds=options.rounds
        )
        for repeat in range(1, options.repeats + 1):
            flows, steps, step_s = ours(file, folder / f"run-{repeat}")
            up, down = (round(flows[flow]) - header for flow in ("activations_up", "gradient_down"))
            with local_broker("mosquitto", folder / "broker") as url:
                echoes, echo_s = echo(parse_url(url).port, options.clients, up, down)
            ratios.append(steps / echoes)
            print(
                f"{repeat}: {up} bytes up, {down} down; ours {steps:5.0f}/s, cpu {1e6 * step_s:4.0f} us; "
                f"echo {echoes:5.0f}/s, cpu {1e6 * echo_s:4.0f} us; ratio {ratios[-1]:.2f}",
                flush=True,
            )
    print(f"median ratio {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
