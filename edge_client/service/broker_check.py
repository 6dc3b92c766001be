"""The checks of a device that need a broker: login, rights, packet size, and the code of the task."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from broker.errors import BrokerError, RefusedError, UserError
from broker.exits import Exit
from broker.transports.access import Context
from broker.transports.probe import Probe, hear_alert
from broker.urls import Address
from broker.wire import packing, topics
from broker.wire.chunks import MAX_PACKET_BYTES
from broker.wire.errors import WireError
from broker.wire.messages import Progress, RunScenario, Standing
from edge_client.service.findings import Device, Finding, failed, ok, skipped

_HEADER_BYTES = 160  # of a PUBLISH with the longest topic
_RETAINED_S = 1.5
_UNTRUE_SERVER = 2**31 - 1  # a server that takes such a message counts it as late, and does nothing more


def check_broker(device: Device, address: Address, context: Context | None) -> Iterator[Finding]:
    """Log in, and try what the device may do and may not do."""
    user = address.username or (f"{device.name} by certificate" if device.access.certificate else "nobody")
    left = ["login", "access list", "packets", "task"]
    try:
        yield from _connected_checks(device, address, context, user, left)
    except BrokerError as error:
        refusal = _refusal(address, context, error)
        if refusal is None:
            rival = (
                "" if left[0] == "login" else "; if the device runs meanwhile: systemctl stop fedlite-edge"
            )
            yield failed(left.pop(0), f"{address}: {error}{rival}", Exit.UNREACHABLE)
        else:
            why = f"{address} refuses {user}: {refusal}; a new bundle has a new password or certificate"
            yield failed(left.pop(0), why, Exit.AUTHENTICATION)
        yield from (skipped(what, "there is no connection any more") for what in left)


def _refusal(address: Address, context: Context | None, error: BrokerError) -> BrokerError | None:
    """Give what the broker has against us: its answer, or its alert against our certificate."""
    if isinstance(error, RefusedError):
        return error
    if context is None or not address.tls:
        return None
    try:
        context.check(address)
        hear_alert(address, context)
        context.check(address)
    except RefusedError as alert:
        return alert
    return None


def _connected_checks(
    device: Device, address: Address, context: Context | None, user: str, left: list[str]
) -> Iterator[Finding]:
    """Make the checks named in `left`, taking each name off when it is done."""
    with Probe(address, context if address.tls else None, device.name) as probe:
        yield ok(left.pop(0), f"as {user}, MQTT {'5' if probe.version == 5 else '3.1.1'}")  # noqa: PLR2004
        run = device.run or "+"
        refused = probe.subscribe([topics.every_state(run), topics.scenario(run)])
        if refused:
            yield failed(
                left.pop(0),
                f"{user} may not hear {', '.join(refused)}: the broker's list must allow it",
                Exit.AUTHENTICATION,
            )
            yield from (skipped(what, "the device may not hear of runs") for what in left)
            return
        scenarios = _published(probe.messages(_RETAINED_S))
        yield _check_rights(probe, device, user, next(iter(scenarios), ""))
        left.pop(0)
        yield _check_packets(probe, device)
        left.pop(0)
        yield check_task(device, scenarios)


def _published(messages: Iterable[tuple[str, bytes]]) -> dict[str, RunScenario]:
    found = dict[str, RunScenario]()
    for topic, payload in messages:
        with suppress(WireError):
            place = topics.parse(topic)
            message = packing.decode(payload) if place.kind == "scenario" else None
            if isinstance(message, RunScenario):
                found[place.run] = message
    return found


def _other(device: Device) -> str:
    return "another-device" if device.name != "another-device" else "some-device"


def _check_rights(probe: Probe, device: Device, user: str, heard_of: str) -> Finding:
    """Say something for the device, and something for another one; the second must be refused."""
    what, run = "access list", device.run or heard_of
    if not run:
        return skipped(what, "no run is known yet, so there is no topic to try")
    if probe.version != 5:  # noqa: PLR2004
        return skipped(what, "this broker speaks MQTT 3.1.1, in which nobody is told of a refusal")
    harmless = packing.encode(Progress(_UNTRUE_SERVER, 0, 0, 0, Standing.MISSING))
    if not probe.publish(topics.up(run, device.name), harmless):
        return failed(
            what,
            f"{user} may not speak for {device.name} in run {run}: is the user's name the device's, and the "
            "run one of the fleet's (`fedlite fleet allow`)?",
            Exit.AUTHENTICATION,
        )
    if probe.publish(topics.up(run, _other(device)), harmless):
        return failed(what, f"{user} may speak for other devices: the broker has no list, or a loose one")
    return ok(what, f"{user} speaks for {device.name} in run {run}, and for nobody else")


def _check_packets(probe: Probe, device: Device) -> Finding:
    """Compare with what the broker says it takes, and send one where it will be refused unread."""
    what, needed = "packets", MAX_PACKET_BYTES + _HEADER_BYTES
    if probe.most_bytes is not None and probe.most_bytes < needed:
        return failed(
            what,
            f"the broker takes packets of {probe.most_bytes:,} bytes: raise its limit to {needed:,}, or put "
            f"broker.packet_bytes={max(4096, probe.most_bytes - _HEADER_BYTES)} into the scenario",
        )
    nobody = topics.up("check", _other(device))
    try:
        taken = probe.publish(nobody, bytes(MAX_PACKET_BYTES))
    except BrokerError as error:
        return failed(
            what, f"one of {MAX_PACKET_BYTES:,} bytes is not taken: {error}; raise the broker's limit"
        )
    return ok(
        what, f"one of {MAX_PACKET_BYTES:,} bytes arrives{'' if taken else ', to be refused as it must'}"
    )


def check_task(device: Device, scenarios: Mapping[str, RunScenario]) -> Finding:
    """Compare the code of the task with the server's, and look whether the device is in the fleet."""
    what = "task"
    if not scenarios:
        return skipped(what, f"no server has published {'run ' + device.run if device.run else 'a run'} yet")
    from scenarios.fingerprint import model_fingerprint  # noqa: PLC0415  torch: seconds, after all else was told
    from scenarios.loading.published import read_published  # noqa: PLC0415
    from scenarios.schema.scenario import client_names  # noqa: PLC0415
    from scenarios.tasks import task_of  # noqa: PLC0415

    same, troubles = list[str](), list[str]()
    for run, told in scenarios.items():
        try:
            scenario = read_published(told.packed, module=device.module)
            mine = model_fingerprint(scenario, task_of(scenario))
        except UserError as error:
            troubles.append(f"run {run}: {error}")
            continue
        if device.name not in client_names(scenario):
            troubles.append(f"run {run} has no client {device.name}")
        elif told.model and told.model != mine:
            troubles.append(
                f"run {run}: the task's code is {mine} here, {told.model} on the server: update the package, "
                "or copy the server's task file"
            )
        else:
            same.append(
                f"{run} ({scenario.task.name}, {mine}{'' if told.model else '; the server tells none'})"
            )
    if same:
        return ok(what, f"the same as the server's in run {', '.join(same)}")
    return failed(what, "; ".join(troubles))
