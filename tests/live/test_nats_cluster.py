"""A cluster of three NATS servers carries a run through the kill of a node."""

import asyncio
import contextlib
import functools
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.errors import BrokerError
from broker.transports.mqtt import MqttTransport
from edge_client.live import host
from scenarios.schema.scenario import client_names
from server_node.live import serve
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport
from tests.helpers import small_scenario
from tests.provisioning.fleets import free_port

NODES = 3
READY_S, HANG_S = 90.0, 500.0

NODE = """\
server_name: node{number}
listen: 127.0.0.1:{port}
jetstream {{ store_dir: "{folder}" }}
cluster {{ name: fedlite, listen: "127.0.0.1:{route}", routes: [{routes}] }}
mqtt {{ listen: "127.0.0.1:{mqtt}", stream_replicas: 3, max_ack_pending: 1024 }}
"""


@pytest.fixture
def nats_program() -> str:
    program = shutil.which("nats-server")
    if program is None:
        pytest.skip("nats-server is not installed (apt-get install nats-server)")
    return program


@contextmanager
def cluster(program: str, folder: Path) -> Iterator[list[tuple[str, "subprocess.Popen[bytes]"]]]:
    """Run three nodes until the context ends; give the URL and the process of each."""
    ports = [[free_port() for _ in range(NODES)] for _ in range(3)]
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports[1])
    with contextlib.ExitStack() as stack:
        nodes = []
        for number, (port, route, mqtt) in enumerate(zip(*ports, strict=True)):
            own = folder / f"node{number}"
            own.mkdir(parents=True)
            settings = own / "nats.conf"
            settings.write_text(
                NODE.format(number=number, port=port, folder=own, route=route, routes=routes, mqtt=mqtt)
            )
            log = stack.enter_context((own / "nats.log").open("wb"))
            process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.kill)
            nodes.append((f"mqtt://127.0.0.1:{mqtt}", process))
        yield nodes


async def ready(url: str) -> None:
    """Wait until a node lets a client in: before that the cluster elects its leaders."""
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            async with MqttTransport(url, client_id=f"ready-{url[-5:]}", subscriptions=["ready"]):
                return
        except BrokerError:
            assert time.monotonic() < deadline_s, "the cluster does not come up"


@pytest.mark.chaos
@pytest.mark.parametrize("victim", range(NODES))
async def test_a_run_goes_on_when_a_node_of_a_cluster_is_killed(
    victim: int, tmp_path: Path, nats_program: str
) -> None:
    scenario = small_scenario(tmp_path, "training.rounds=12")
    stop, under_way = asyncio.Event(), asyncio.Event()
    rounds: list[int] = []

    def watch(fact: Fact, _ledger: Ledger) -> None:
        if isinstance(fact, RoundReport):
            rounds.append(fact.round)
            if fact.round == 3:
                under_way.set()

    with cluster(nats_program, tmp_path / "nats") as nodes:
        async with asyncio.timeout(HANG_S):
            for url, _ in nodes:
                await ready(url)
            urls = ",".join(url for url, _ in [*nodes[victim:], *nodes[:victim]])  # all begin at the victim
            connect = functools.partial(MqttTransport, urls, connect_timeout_s=READY_S)
            async with asyncio.TaskGroup() as group:
                server = group.create_task(
                    serve(scenario, connect, run="small", folder=tmp_path / "run", stop=stop, watch=watch)
                )
                clients = group.create_task(
                    host(scenario, connect, run="small", names=client_names(scenario), stop=stop)
                )
                await under_way.wait()
                nodes[victim][1].kill()
    assert server.result()["reason"] == "complete"
    assert set(clients.result().values()) == {"complete"}
    assert rounds == list(range(1, 13))
