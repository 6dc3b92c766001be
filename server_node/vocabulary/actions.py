"""The server's events and actions: those of all state machines, with the server's jobs and facts."""

from broker.machine.actions import Action, Event
from server_node.vocabulary.jobs import TailJob, TailResult
from server_node.vocabulary.reports import Fact

ServerAction = Action[TailJob, Fact]
ServerEvent = Event[TailJob, TailResult]
