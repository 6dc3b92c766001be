"""Who hears the facts of a server's state machine: run folder, log, watcher and trackers."""

import logging
from collections.abc import Callable

from server_node.record import RunFolder
from server_node.trackers.events import Tell, happened, round_ended, silence
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Dropped, Fact, Gathering, Noticed, Refused, RoundReport, Watch

log = logging.getLogger(__name__)


def observer(record: RunFolder, ledger: Ledger, watch: Watch, tell: Tell = silence) -> Callable[[Fact], None]:
    """Make the function that hears of each fact, in the moment in which it happens.

    Args:
        record: notes the rounds, and starts its clock when the first one begins.
        ledger: of the run, for the watcher.
        watch: hears of each fact after the record has noted it.
        tell: hears what trackers are told of it.
    """

    def observe(fact: Fact) -> None:
        match fact:
            case RoundReport():
                tell(round_ended(record.round(fact), ledger))
            case Gathering():
                record.start_training_clock()
            case Dropped(number, client):
                log.info("round %d goes on without %s", number, client)
            case Refused(client, why):
                log.warning("refused a message of %s: %s", client, why)
            case Noticed(client, what):
                log.warning("%s %s", client, what)
        if (event := happened(fact)) is not None:
            tell(event)
        watch(fact, ledger)

    return observe


def silent_observer(record: RunFolder) -> Callable[[Fact], None]:
    """Make the function that notes facts of which everybody has heard, when a simulated run goes on."""

    def observe(fact: Fact) -> None:
        match fact:
            case RoundReport():
                record.note(fact)
            case Gathering():
                record.start_training_clock()
            case _:
                pass

    return observe
