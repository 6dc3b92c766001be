"""A moment of a simulated run from which another process can go on, and where such a run stands.

Virtual time itself is not saved: not the clock's queue, the links, the state machines. It passes again, from
the beginning, with the records of all jobs (sim.simulation.job_log), at the speed of a run that trains
nothing. Saved are those records, the tensors under way, and what server and devices have learned. So nothing
in the modelled network has to be able to be saved, and a file holds plain values only, no code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from broker.errors import CannotGoOnError
from broker.exits import COMPLETE, STOPPED
from edge_client.training.device_state import DeviceState
from scenarios.computing.placing import on_cpu
from scenarios.errors import ScenarioError
from scenarios.fingerprint import model_fingerprint, package_version
from scenarios.loading.load import load_scenario
from scenarios.schema.base import without_defaults
from scenarios.schema.scenario import Scenario
from scenarios.tasks import task_of
from server_node import checkpoint
from server_node.learning.tail_state import TailState
from server_node.ownership import refuse_other_kinds
from server_node.progress import refuse_others, refuse_results, summary_of
from server_node.summary import Summary
from sim.simulation.recorder import Place

_MOMENT = "moment"


class Simulated(msgspec.Struct, frozen=True):
    """Header of the checkpoint of a simulated run.

    Attributes:
        settings: of its scenario, see settings_of.
        code: by which it was written, see code_of.
    """

    settings: dict[str, Any]
    code: dict[str, str]


class Moment(msgspec.Struct, frozen=True):
    """A run between two events.

    Attributes:
        events: that have happened.
        now_s: virtual time.
        wall_s: seconds that the run has taken so far.
        log: records of its jobs, see Recorder.log.
        tensors: that a job may still read, see Recorder.tensors.
        tail: of the server.
        devices: of those that are not as they were made, by client.
        data: a digest of each device's samples, by client.
    """

    events: int
    now_s: float
    wall_s: float
    log: bytes
    tensors: list[tuple[Place, bytes]]
    tail: TailState
    devices: dict[str, DeviceState]
    data: dict[str, str]


@dataclass(frozen=True)
class Standing:
    """Where a run stands before it is simulated.

    Attributes:
        moment: to go on from; None: begin.
        damaged: a checkpoint that was newer, and what was wrong with it.
        finished: summary of a run that is over, and a line for people; None: something is left to do.
    """

    moment: Moment | None = None
    damaged: tuple[str, ...] = ()
    finished: tuple[Summary, str] | None = None


def save(folder: Path, header: Simulated, moment: Moment) -> None:
    """Write a moment as the checkpoint of a run folder.

    Raises:
        RunError: it cannot be written.
    """
    tensors: list[Tensor] = []

    def lay_by(tensor: Tensor) -> int:
        tensors.append(on_cpu(tensor).contiguous())
        return len(tensors) - 1

    packed = bytearray()
    msgspec.msgpack.Encoder(enc_hook=lay_by).encode_into(moment, packed)
    named = {str(number): tensor for number, tensor in enumerate(tensors)}
    checkpoint.save(folder, header, named | {_MOMENT: torch.frombuffer(packed, dtype=torch.uint8)})


def newest(scenario: Scenario, folder: Path) -> tuple[Moment, tuple[str, ...]] | None:
    """Read the newest good checkpoint of a run folder.

    Returns:
        It, and what was wrong with a newer one; None when there is none.

    Raises:
        CannotGoOnError: it is of another scenario, of a live run, of other code, or all are damaged.
    """
    found = checkpoint.newest(folder, Simulated)
    if found is None:
        return None
    header, tensors, damaged = found
    refuse_others(header.settings, settings_of(scenario), folder)
    refuse_others({"code": header.code}, {"code": code_of(scenario)}, folder)
    packed = tensors[_MOMENT].numpy().tobytes()
    try:
        moment = msgspec.msgpack.decode(
            packed, type=Moment, dec_hook=lambda _type, number: tensors[str(number)]
        )
    except msgspec.MsgspecError as error:
        raise CannotGoOnError(
            f"{folder} has a checkpoint of another version: {error}; --fresh begins the run anew"
        ) from error
    return moment, tuple(damaged)


def standing_of(scenario: Scenario, folder: Path, *, timing_only: bool) -> Standing:
    """Look how far the simulated run of a folder has come.

    Results of a run that trained nothing are no obstacle: they are quickly made again.

    Args:
        scenario: what is to be run.
        folder: the run folder.
        timing_only: nothing is to be trained; such a run always begins anew.

    Raises:
        CannotGoOnError: the folder has another run, or results that would be lost.
    """
    refuse_other_kinds(folder, "run")
    found = newest(scenario, folder)
    if found is not None:
        if timing_only:
            raise CannotGoOnError(
                f"{folder} has a run that trains and is not over; "
                "--fresh begins anew over it, --out names another folder"
            )
        return Standing(*found)
    summary = summary_of(folder)
    if summary is None or not (folder / "model.safetensors").exists():
        return Standing()
    if summary["mode"] != "simulate" or summary["reason"] == STOPPED or timing_only:
        refuse_results(summary, folder)
        return Standing()
    try:
        before = load_scenario(folder / "scenario.yaml")
    except ScenarioError as error:
        raise CannotGoOnError(
            f"{folder} has the run of a scenario that cannot be read: {error}\n"
            "--fresh begins anew over it, --out names another folder"
        ) from error
    refuse_others(settings_of(before), settings_of(scenario), folder)
    ended = "already complete" if summary["reason"] == COMPLETE else f"already over, {summary['reason']}"
    return Standing(finished=(summary, f"{ended}: {summary['rounds']} rounds; --fresh begins anew"))


def settings_of(scenario: Scenario) -> dict[str, Any]:
    """Give what must stay as it is while a simulated run goes on.

    That is all but the places of files and the broker's address. It is more than in a live run: the name
    stands in each message, rates and evaluations hang on the number of rounds, and times on the network.
    """
    settings = without_defaults(scenario)
    broker = scenario.broker
    settings["broker"] = {"packet_bytes": broker.packet_bytes, "client_id": broker.client_id}
    for key in ("path", "data", "module"):
        settings["task"].pop(key, None)
    return settings


def code_of(scenario: Scenario) -> dict[str, str]:
    """Give what decides about the last bits of a run beside its scenario."""
    return {
        "fedlite": package_version(),
        "numpy": np.__version__,
        "task": model_fingerprint(scenario, task_of(scenario)),
        "torch": str(torch.__version__),
    }
