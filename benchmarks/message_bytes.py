"""What each kind of message costs on a device's link: payload, envelope, headers and answers.

    .venv/bin/python -m benchmarks.message_bytes [all-flows] [--set training.local_steps=5] [--rounds 10]

A live run of a scenario, server and clients in one process with a broker in memory; every message that passes
is taken apart. Means are of one message: payload; targets; the rest of the message; MQTT's header and the
topic; TCP/IP's headers in its direction; what answers it in the other one, with its headers. The last row has
the bytes of one client in one round, control messages left out.
"""

import argparse
import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from broker.transports.memory import MemoryBroker
from broker.wire import packing
from broker.wire.link_bytes import message_on_link
from broker.wire.messages import Activations, Assignment, HeadUpdate, Message
from edge_client.live import host
from scenarios.loading.load import load_scenario
from scenarios.schema.scenario import client_names
from server_node.live import serve

PARTS = ("payload", "targets", "envelope", "MQTT", "TCP/IP", "answers")


class Listening(MemoryBroker):
    """A broker that adds up the parts of all messages of clients and of the server to one client.

    Attributes:
        parts: bytes of PARTS, by kind of message.
        counts: messages, by kind.
    """

    def __init__(self) -> None:
        super().__init__()
        self.parts = defaultdict[str, list[int]](lambda: [0] * len(PARTS))
        self.counts = defaultdict[str, int](int)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Pass a message on."""
        if topic.split("/")[3] in ("u", "d", "status") and payload:
            message = packing.decode(payload)
            self.counts[type(message).__name__] += 1
            sums = self.parts[type(message).__name__]
            for number, part in enumerate(parts_of(topic, message)):
                sums[number] += part
        super().publish(topic, payload, retain=retain)


def parts_of(topic: str, message: Message) -> tuple[int, ...]:
    """Give the bytes of PARTS for one message."""
    size, travels = packing.encoded_bytes(message), packing.published(topic, message)
    wire, on_link = travels.wire_bytes, message_on_link(*travels)
    payload = len(message.head if isinstance(message, Assignment) else getattr(message, "payload", b""))
    targets = len(message.targets) if isinstance(message, Activations) else 0
    answers = on_link.back + (on_link.there - message_on_link(wire, qos=0).there)
    headers = on_link.there - wire - (answers - on_link.back)
    return payload, targets, size - payload - targets, wire - size, headers, answers


async def listen(name: str, changes: Sequence[str], folder: Path) -> Listening:
    """Run a scenario to its end."""
    scenario, broker = load_scenario(name, changes), Listening()
    stop, begun = asyncio.Event(), asyncio.Event()
    names = client_names(scenario)
    async with asyncio.TaskGroup() as group:
        group.create_task(
            serve(scenario, broker.transport, run=scenario.name, folder=folder, stop=stop, begun=begun)
        )
        await begun.wait()
        group.create_task(host(scenario, broker.transport, run=scenario.name, names=names, stop=stop, jobs=2))
    return broker


def main() -> None:
    """Print the table."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("scenario", nargs="?", default="all-flows")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    changes = [*options.set, f"training.rounds={options.rounds}"]
    with tempfile.TemporaryDirectory() as folder:
        heard = asyncio.run(listen(options.scenario, changes, Path(folder)))
    print(f"{'message':<16}{'number':>7}" + "".join(f"{part:>9}" for part in (*PARTS, "together")))
    for kind, count in heard.counts.items():
        means = [part / count for part in heard.parts[kind]]
        print(f"{kind:<16}{count:>7}" + "".join(f"{mean:>9.1f}" for mean in (*means, sum(means))))
    rounds = heard.counts[HeadUpdate.__name__]
    of_round = [
        sum(sums[number] for kind, sums in heard.parts.items() if sums[0] > 0) / rounds
        for number in range(len(PARTS))
    ]
    print(f"{'client and round':<23}" + "".join(f"{each:>9.1f}" for each in (*of_round, sum(of_round))))


if __name__ == "__main__":
    main()
