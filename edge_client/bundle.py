"""A device's own bundle: it is the client that the bundle names, and no other."""

from collections.abc import Sequence
from pathlib import Path

from broker.errors import RunError
from broker.provisioning.bundle import Bundle, read_bundle


def own_bundle(folder: Path, clients: Sequence[str] = ()) -> Bundle:
    """Read the bundle of this device.

    Args:
        folder: of the bundle.
        clients: that the command line names besides.

    Raises:
        RunError: it is no device's bundle, or the command line names another client: the broker knows each
            device by its credentials, and drops what it says in another's name.
        BrokerError: something in it cannot be read.
    """
    bundle = read_bundle(folder, "device")
    if others := [client for client in clients if client != bundle.name]:
        raise RunError(
            f"{folder} is the bundle of {bundle.name}, and the broker lets it be nobody else: leave out "
            f"{', '.join(others)}, or take that client's bundle"
        )
    return bundle
