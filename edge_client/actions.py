"""A client's events and actions: those of all state machines, with the client's jobs and warnings."""

from dataclasses import dataclass

from broker.machine.actions import Action, Event
from edge_client.jobs import ClientJob, ClientResult


@dataclass(frozen=True, slots=True)
class ProtocolWarning:
    """Report: something from the server was refused, or the server refused something."""

    client: str
    what: str


ClientAction = Action[ClientJob, ProtocolWarning]
ClientEvent = Event[ClientJob, ClientResult]
