"""A run of real processes goes on after every fault, and no step of it is lost or counts twice.

.venv/bin/pytest -m chaos -s        200 faults; FEDLITE_CHAOS_FAULTS and FEDLITE_CHAOS_SEED change that
"""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from broker.servers.spawn import Kind
from tests.chaos.fleet import Fault, Outcome, draw_faults, figures, may_mount, survive

FAULTS = int(os.environ.get("FEDLITE_CHAOS_FAULTS", "200"))
SEED = int(os.environ.get("FEDLITE_CHAOS_SEED", "0"))
FAULTS_A_RUN = 10
SOON = [  # those that need no keepalive to pass
    Fault("kill", "server", "gradient"),
    Fault("cut", "edge-0", "activations"),
    Fault("cut", "server", "update"),
    Fault("kill", "edge-1", "assigned"),
    Fault("restart", "broker", "activations"),
    *([Fault("full", "server", "update")] if may_mount() else []),
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
async def test_a_run_survives_kills_cuts_a_full_disk_and_a_broker_that_starts_anew(
    tmp_path: Path, kind: Kind, request: pytest.FixtureRequest
) -> None:
    if kind == "mosquitto":
        request.getfixturevalue("mosquitto_program")
    outcome = await survive(tmp_path, kind, SOON)
    assert outcome.is_flawless, outcome
    assert len(outcome.recoveries) == len(SOON)


@pytest.mark.chaos
@pytest.mark.usefixtures("mosquitto_program")
async def test_a_run_survives_every_fault_in_every_phase(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    runs = -(-FAULTS // FAULTS_A_RUN)
    kinds: tuple[Kind, Kind] = ("mosquitto", "embedded")
    waiting = list(range(runs))

    async def play() -> None:
        while waiting:
            number = waiting.pop(0)
            steps = 1 + number // 2 % 2
            faults = draw_faults(SEED + number, min(FAULTS_A_RUN, FAULTS - FAULTS_A_RUN * number), steps)
            outcomes.append(await survive(tmp_path / str(number), kinds[number % 2], faults, steps))
            sys.stderr.write(f"\n{number + 1} of {runs}: {kinds[number % 2]}\n{figures(outcomes)}\n")

    await asyncio.gather(play(), play())
    assert all(outcome.is_flawless for outcome in outcomes), figures(outcomes)
