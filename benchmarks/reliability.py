"""What asking silent devices costs where nothing is lost: time and bytes against a run that never asks.

    .venv/bin/python -m benchmarks.reliability links [--clients 2 10] [--local-steps 10] [--rounds 5]
    .venv/bin/python -m benchmarks.reliability slow

`links` simulates digits28 over every link preset, as float32 and with all flows coded, under each straggler
policy, at default settings. Each run is held against the same run whose server never asks: virtual time, and
bytes on the devices' links, with TCP/IP headers and acknowledgements. `slow` does it for three runs whose
messages take minutes or whose devices compute for minutes. Nothing is trained; all times are virtual.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from scenarios.loading.load import load_scenario
from scenarios.schema.links import LINKS
from server_node.protocol.round_trip import RoundTrip
from server_node.summary import Summary, total_wire_bytes
from sim.simulation.run import simulate

NEVER_S = 1e9
"""Longer than any run."""

FLOAT32 = "{activations_up: {codec: float32}, gradient_down: {codec: float32}, head_update_up: {codec: float32}, head_state_down: {codec: float32}}"  # noqa: E501
CODECS = {"float32": [f"flows={FLOAT32}"], "all-flows": []}
POLICIES = {
    "wait_all": "{policy: wait_all}",
    "deadline": "{policy: deadline, deadline_s: 60, minimum: 1}",
    "over_select": "{policy: over_select, extra: 1}",
    "buffered": "{policy: buffered, buffer: 1, max_staleness: 4}",
}
SLOW = {
    "float32 over nb-iot, 2 clients, 10 local steps": (
        "all-flows",
        [
            f"flows={FLOAT32}",
            "fleet=[{count: 2, link: nb-iot}]",
            "training.cohort=2",
            "training.local_steps=10",
            "training.rounds=2",
        ],
    ),
    "pq + int4 at the rates of lora-backhaul, 2 clients, 10 local steps": (
        "all-flows",
        [
            "flows.activations_up={codec: pq, subvectors: 288, groups: 1, centroids: 2}",
            "flows.gradient_down={codec: int4}",
            "flows.head_update_up={codec: int8}",
            "flows.head_state_down={codec: int8}",
            "fleet=[{count: 2, link: {uplink_kbps: 5.47, downlink_kbps: 5.47, latency_ms: 500}}]",
            "training.cohort=2",
            "training.local_steps=10",
            "training.rounds=1",
        ],
    ),
    "FedAvg, 800 local steps on Raspberry Pi Zeros, wifi": (
        "fedavg",
        [
            "fleet=[{count: 10, device: raspberry-pi-zero-2w, link: wifi}]",
            "training.cohort=10",
            "training.local_steps=800",
            "training.rounds=2",
        ],
    ),
}


@dataclass(frozen=True)
class Cost:
    """What asking cost in one run.

    Attributes:
        name: of the run.
        completes: whether it did all its rounds; under a policy that drops nobody for being late, also with
            as many client steps as the run without asking.
        virtual_s: how long it took.
        time_ratio: its virtual time over that of the run without asking.
        bytes_ratio: the same of the bytes on the devices' links, TCP/IP included.
        mqtt_ratio: the same of the bytes of MQTT packets.
    """

    name: str
    completes: bool
    virtual_s: float
    time_ratio: float
    bytes_ratio: float
    mqtt_ratio: float

    @property
    def is_small(self) -> bool:
        """Whether it stays within two per cent of time and bytes."""
        return self.completes and max(self.time_ratio, self.bytes_ratio, self.mqtt_ratio) <= 1.02


@contextmanager
def never_asking() -> Iterator[None]:
    """Let servers wait for ever before they ask."""
    before = RoundTrip.wait_s
    RoundTrip.wait_s = property(lambda _self: NEVER_S)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        RoundTrip.wait_s = before  # type: ignore[method-assign]


def links(
    presets: Sequence[str] = tuple(LINKS),
    clients: Sequence[int] = (2, 10),
    local_steps: int = 10,
    rounds: int = 5,
) -> Iterator[Cost]:
    """Give the cost of asking for every preset, codec, policy and number of clients."""
    for preset in presets:
        for codecs, flows in CODECS.items():
            for policy, stragglers in POLICIES.items():
                for count in clients:
                    cohort = count - 1 if policy == "over_select" else count
                    settings = [
                        *flows,
                        f"fleet=[{{count: {count}, device: raspberry-pi-4, link: {preset}}}]",
                        f"training.cohort={cohort}",
                        f"training.local_steps={local_steps}",
                        f"training.rounds={rounds}",
                    ]
                    yield cost(f"{preset}, {codecs}, {policy}, {count}", "all-flows", settings, stragglers)


def slow() -> Iterator[Cost]:
    """Give the cost of asking in the three slow runs."""
    for name, (scenario, settings) in SLOW.items():
        yield cost(name, scenario, settings, POLICIES["wait_all"])


def cost(name: str, scenario: str, settings: Sequence[str], stragglers: str) -> Cost:
    """Simulate a run twice, with and without asking."""
    usual = _run(scenario, [*settings, f"stragglers={stragglers}"])
    patient = f"{stragglers[:-1]}, retry_s: {NEVER_S}}}"
    with never_asking():
        alone = _run(scenario, [*settings, f"stragglers={patient}"])
    assert usual["virtual_seconds"] is not None
    assert alone["virtual_seconds"] is not None
    return Cost(
        name,
        usual["reason"] == alone["reason"] == "complete"
        and ("deadline" in stragglers or "over_select" in stragglers or _steps(usual) == _steps(alone)),
        usual["virtual_seconds"],
        usual["virtual_seconds"] / alone["virtual_seconds"] if alone["virtual_seconds"] else 1.0,
        _link_bytes(usual) / _link_bytes(alone),
        total_wire_bytes(usual) / total_wire_bytes(alone),
    )


def _run(scenario: str, settings: Sequence[str]) -> Summary:
    with tempfile.TemporaryDirectory() as folder:
        return simulate(load_scenario(scenario, settings), Path(folder), timing_only=True)


def _steps(summary: Summary) -> tuple[int, int]:
    return summary["rounds"], summary["client_steps"]


def _link_bytes(summary: Summary) -> int:
    return summary["network"]["uplink_bytes"] + summary["network"]["downlink_bytes"]


def show(costs: Iterator[Cost]) -> int:
    """Print a line for each run and the worst of all; give how many cost too much."""
    every: list[Cost] = []
    for each in costs:
        every.append(each)
        print(
            f"{each.name:45} {each.virtual_s:12.1f} s  time {each.time_ratio:.4f}"
            f"  bytes {each.bytes_ratio:.4f}  mqtt {each.mqtt_ratio:.4f}{'' if each.is_small else '  <---'}",
            flush=True,
        )
    bad = sum(not each.is_small for each in every)
    print(
        f"{len(every)} runs, {sum(each.completes for each in every)} complete; at worst time"
        f" {max(each.time_ratio for each in every):.4f}, bytes {max(each.bytes_ratio for each in every):.4f};"
        f" {bad} above 1.02"
    )
    return bad


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(required=True, dest="mode")
    every = modes.add_parser("links")
    every.add_argument("--presets", nargs="+", default=list(LINKS), choices=list(LINKS))
    every.add_argument("--clients", type=int, nargs="+", default=[2, 10])
    every.add_argument("--local-steps", type=int, default=10)
    every.add_argument("--rounds", type=int, default=5)
    modes.add_parser("slow")
    options = vars(parser.parse_args())
    sys.exit(1 if show(links(**options) if options.pop("mode") == "links" else slow()) else 0)


if __name__ == "__main__":
    main()
