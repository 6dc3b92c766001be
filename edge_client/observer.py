"""Who hears the facts of a device's state machine, live and in virtual time: the log."""

import logging

from edge_client.actions import ProtocolWarning

log = logging.getLogger(__name__)


def log_warning(warning: ProtocolWarning) -> None:
    """Log what a client's state machine warns of; it reports nothing else."""
    log.warning("%s: %s", warning.client, warning.what)
