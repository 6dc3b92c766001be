"""What the devices' links carry: a packet capture against the model of a live run.

    sudo .venv/bin/python -m benchmarks.link_bytes [--links wifi,lte] [--flows compressed] [--rounds 60]

For each setting: namespaces joined by shaped links, as in benchmarks.fidelity; in them Mosquitto, `fedlite
server` and a `fedlite edge` for each client; on each client's end of its link tcpdump, with every packet of
its connection. The bytes of all IP packets are held against `links` in the summary of the same run, which
the server has worked out from the messages. Linux, as root, with mosquitto and tcpdump.
"""

import argparse
import shutil
import struct
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.fidelity import PORT, Load, Setting, live, started
from benchmarks.shaped_links import client_namespace, shaped_links, why_not
from broker.servers.mosquitto import find_mosquitto
from scenarios.schema.links import LINKS
from server_node.progress import summary_of

CLIENTS, COHORT = 3, 2
SETTLE_S = 1.0
"""Before the run tcpdump needs it to begin, and after it the last packets to arrive."""

_PCAP_HEADER_BYTES = 24
_RECORD = struct.Struct("<IIII")  # seconds, microseconds, bytes kept, bytes of the packet
_TCP, _VERSION_4 = 6, 4
_KEPT_BYTES = 100  # of each packet: all headers


@dataclass
class Captured:
    """Bytes and numbers of IP packets with TCP in them; `bare` ones have no payload."""

    up_bytes: int = 0
    down_bytes: int = 0
    packets: int = 0
    bare: int = 0


def ip_packets(file: Path) -> Iterator[bytes]:
    """Give the beginnings of the packets that tcpdump has written, from IP's header on."""
    content, at = file.read_bytes(), _PCAP_HEADER_BYTES
    while at + _RECORD.size <= len(content):
        _, _, kept, _ = _RECORD.unpack_from(content, at)
        at += _RECORD.size
        yield content[at : at + kept]
        at += kept


def count(packets: Iterator[bytes], into: Captured) -> None:
    """Count packets by their IP headers; the device is the end that is not the broker's port."""
    for packet in packets:
        if packet[0] >> 4 != _VERSION_4 or packet[9] != _TCP:
            continue
        total_bytes = int.from_bytes(packet[2:4], "big")
        tcp_at = 4 * (packet[0] & 15)
        to_port = int.from_bytes(packet[tcp_at + 2 : tcp_at + 4], "big")
        if to_port == PORT:
            into.up_bytes += total_bytes
        else:
            into.down_bytes += total_bytes
        into.packets += 1
        into.bare += total_bytes == tcp_at + 4 * (packet[tcp_at + 12] >> 4)


def write_scenario(file: Path, scenario: str, rounds: int) -> None:
    """Write a shipped scenario for a few clients, short."""
    training = {"rounds": rounds, "cohort": COHORT, "evaluate_every": rounds}
    fleet = [{"count": 1} for _ in range(CLIENTS)]
    content = {"extends": scenario, "name": "links", "training": training, "fleet": fleet}
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def compare(link: str, scenario: str, rounds: int, folder: Path) -> None:
    """Capture one run and print a line."""
    folder.mkdir()
    file = folder / "scenario.yaml"
    write_scenario(file, scenario, rounds)
    captures = [folder / f"{number}.pcap" for number in range(CLIENTS)]
    setting = Setting(LINKS[link], Load(CLIENTS, 0, "", ""))
    with shaped_links([setting.link] * CLIENTS, None), ExitStack() as stack:
        for number, capture in enumerate(captures):
            inside = ["ip", "netns", "exec", client_namespace(number)]
            dump = ["tcpdump", "-i", "tun0", "-s", str(_KEPT_BYTES), "-U", "-w", str(capture), f"port {PORT}"]
            stack.enter_context(started([*inside, *dump], folder / "tcpdump.log"))
        time.sleep(SETTLE_S)
        live(setting, file, folder)
        time.sleep(SETTLE_S)
    seen = Captured()
    for capture in captures:
        count(ip_packets(capture), seen)
    summary = summary_of(folder / "live")
    assert summary is not None
    assert "links" in summary
    links, mqtt = summary["links"], sum(flow["wire"] for flow in summary["bytes"].values())
    up, down = links["up"] / seen.up_bytes - 1, links["down"] / seen.down_bytes - 1
    both = (links["up"] + links["down"]) / (seen.up_bytes + seen.down_bytes) - 1
    print(
        f"{link:<10} {scenario:<12} {mqtt:12,} {seen.up_bytes:12,} {seen.down_bytes:12,} {seen.packets:8,}"
        f" {seen.bare:8,}   {100 * up:+5.1f} %  {100 * down:+5.1f} %  {100 * both:+5.1f} %",
        flush=True,
    )


def main() -> None:
    """Compare setting after setting."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--links", default="wifi,lte", help="presets of links")
    parser.add_argument("--scenarios", default="all-flows,quickstart", help="shipped scenarios")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    if why := why_not() or (None if shutil.which("tcpdump") else "tcpdump is not installed"):
        raise SystemExit(f"SKIPPED, nothing was compared: {why}")
    find_mosquitto()
    print(
        f"{'link':<10} {'scenario':<12} {'MQTT bytes':>12} {'captured up':>12} {'down':>12} {'packets':>8}"
        f" {'bare':>8}   {'model: up':>7}   {'down':>6}   {'both':>6}"
    )
    with tempfile.TemporaryDirectory() as folder:
        for scenario in options.scenarios.split(","):
            for link in options.links.split(","):
                compare(link, scenario, options.rounds, Path(folder) / f"{scenario}-{link}")


if __name__ == "__main__":
    main()
