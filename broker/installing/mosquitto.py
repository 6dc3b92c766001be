"""Makes the Mosquitto that Debian brings the broker of a fleet; its own settings stay as they are."""

from collections.abc import Mapping

from broker.errors import RunError
from broker.installing.service import UNITS, Machine
from broker.installing.steps import File, Folder, Move, Remove, Run, Step
from broker.provisioning.configuration import CONFIG, PASSWORDS, fleet_config, port_of
from broker.provisioning.unit import DROP_IN, MOSQUITTO_FILES, mosquitto_drop_in

USER, DATA = "mosquitto", "/var/lib/mosquitto"


def install_mosquitto(files: Mapping[str, bytes], machine: Machine) -> list[Step]:
    """Give the steps that make a machine's Mosquitto the broker of a fleet.

    Args:
        files: of the folder broker/ of a fleet.
        machine: where.

    Raises:
        RunError: there is no Mosquitto.
        BrokerError: the files are no broker's.
    """
    if machine.keeps_users and not machine.knows(USER):
        raise RunError("there is no Mosquitto: apt-get install mosquitto; or give the server's bundle alone")
    if CONFIG not in files:
        raise RunError(
            f"the fleet's folder broker/ has no {CONFIG}; `fedlite fleet rotate --broker` writes it"
        )
    port = port_of(files[CONFIG].decode("utf-8", "replace"))
    config = fleet_config(MOSQUITTO_FILES, DATA, port=port, passwords=PASSWORDS in files)
    new = f"{MOSQUITTO_FILES}.new"
    steps: list[Step] = [
        Remove(new),
        Folder(new, 0o700, USER),
        *(File(f"{new}/{name}", content, 0o600, USER) for name, content in files.items() if name != CONFIG),
        File(f"{new}/{CONFIG}", config.encode(), 0o600, USER),
        Move(new, MOSQUITTO_FILES),
    ]
    if machine.systemd:
        steps += [File(f"{UNITS}/{DROP_IN}", mosquitto_drop_in().encode())]
    return [*steps, *_restart(machine)]


def uninstall_mosquitto(machine: Machine) -> list[Step]:
    """Give the steps after which Mosquitto is as Debian's package made it."""
    if not machine.path(MOSQUITTO_FILES).is_dir():
        return []
    drop_in = f"{UNITS}/{DROP_IN}"
    return [
        Remove(MOSQUITTO_FILES),
        Remove(drop_in),
        Remove(drop_in.rpartition("/")[0], if_empty=True),
        *_restart(machine),
    ]


def _restart(machine: Machine) -> list[Step]:
    if not (machine.runs and machine.systemd):
        return []
    return [
        Run(("systemctl", "daemon-reload")),
        Run(("systemctl", "enable", "mosquitto.service")),
        Run(("systemctl", "restart", "mosquitto.service")),
    ]
