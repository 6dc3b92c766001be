"""The scenario as the server publishes it, so that devices need no file.

It is what devices must know of the run: YAML with every default, compressed with zlib. The broker's address,
the place of the task on the server's machine and that machine's GPU are left out.
"""

import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

from scenarios.errors import ScenarioError
from scenarios.loading.load import check, dump_resolved, lay_over
from scenarios.loading.yaml_tree import parse
from scenarios.schema.broker import BrokerSpec
from scenarios.schema.scenario import Scenario, ServerSpec, SimulationSpec
from scenarios.tasks.user_module import is_file

log = logging.getLogger(__name__)

ENVELOPE_BYTES = 26
"""Of the message around it, at most, with the fingerprint of the task's code."""

MAX_TEXT_BYTES = 2**20
"""The longest text that a device unpacks."""
MODULE = "task.module"
_SOURCE = "the run's scenario"


def publish_scenario(scenario: Scenario, most_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Give the bytes to publish; of the path of a task's file only the name is left.

    Args:
        scenario: of the run.
        most_bytes: that can be published; what is retained cannot be sent in chunks.

    Raises:
        ScenarioError: there are more bytes, or the text is longer than devices take.
    """
    module = scenario.task.module
    if module is not None and is_file(module):
        module = Path(module).name
    task = scenario.task.model_copy(update={"path": None, "data": None, "module": module})
    broker = BrokerSpec(packet_bytes=scenario.broker.packet_bytes, client_id=scenario.broker.client_id)
    own = {"task": task, "broker": broker, "server": ServerSpec(), "simulation": SimulationSpec()}
    text = dump_resolved(scenario.model_copy(update=own)).encode()
    if len(text) > MAX_TEXT_BYTES:
        raise ScenarioError(f"it has {len(text):,} bytes, devices read {MAX_TEXT_BYTES:,} at most")
    packed = zlib.compress(text, 9)
    if len(packed) > most_bytes:
        raise ScenarioError(f"compressed it has {len(packed):,} bytes, a packet holds {most_bytes:,}")
    return packed


def offer_scenario(scenario: Scenario) -> bytes:
    """Give the bytes to publish; none, and a warning, if they are too many for one packet."""
    try:
        return publish_scenario(scenario, scenario.broker.packet_bytes - ENVELOPE_BYTES)
    except ScenarioError as error:
        log.warning("devices cannot get the scenario from the broker, they need its file: %s", error)
        return b""


def read_published(
    packed: bytes, settings: Sequence[str] = (), *, data: str = "", module: str = ""
) -> Scenario:
    """Read and check a scenario that a server has published, as one from a file.

    It comes from outside: it extends nothing, and no file is read because it names it.

    Args:
        packed: what `publish_scenario` gave.
        settings: such as "task.path=/data/femnist".
        data: where this device has its data, see lay_over.
        module: this device's own task, a Python file or an importable module; empty: see Raises.

    Raises:
        ScenarioError: it cannot be read, something is wrong with it, or the task is a file of the user's,
            which the device must have itself.
    """
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(packed, MAX_TEXT_BYTES)
        root = parse(text.decode(), _SOURCE, Path())
    except (zlib.error, UnicodeDecodeError) as error:
        raise ScenarioError(f"{_SOURCE} cannot be read: {error}") from error
    if not unpacking.eof or not isinstance(root.value, dict):
        raise ScenarioError(f"{_SOURCE} cannot be read: it is cut, too long, or no mapping of keys to values")
    task = root.value.get("task")
    named = task.plain().get("module") if task is not None and isinstance(task.value, dict) else None
    if module and named is None:
        raise ScenarioError("this run's task is built in and needs no module of yours")
    if isinstance(named, str) and is_file(named) and not module:
        raise ScenarioError(
            f"this run's task is its owner's own, in the file {Path(named).name}: copy that file to this "
            "device, and name it with --task-module PATH",
            key=MODULE,
        )
    own = [f"{MODULE}={module}"] if module else []
    return check(lay_over(root, [*settings, *own], data=data), with_files=False)
