"""Topic names of a run, and the names that may stand in them.

    fl/<run>/state             server -> everybody   RunState, retained; the server's last will
    fl/<run>/down/<client>     server -> one client  Assignment, Gradient, Rejected
    fl/<run>/up/<client>       client -> server      Hello, Activations, HeadUpdate
    fl/<run>/status/<client>   client -> server      Status, retained; the client's last will

Which run and client a message belongs to stands in its topic alone, and no message repeats it. So an access
list at the broker is enough to hold each device to its own name.
"""

import re
from typing import NamedTuple

from broker.errors import RunError
from broker.wire.errors import WireError

_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


class TopicParts(NamedTuple):
    """Where a message was published: the run, the kind of topic, and the client (empty for `state`)."""

    run: str
    kind: str
    client: str


def check_name(name: str) -> str:
    """Return `name` if it may stand in a topic, else raise RunError (MQTT 3.1.1, 4.7.3)."""
    if not _NAME.fullmatch(name):
        raise RunError(f"{name!r} cannot be a run or client name: use 1 to 32 of A-Z a-z 0-9 _ -")
    return name


def state(run: str) -> str:
    """Topic of the run's retained state."""
    return f"fl/{run}/state"


def down(run: str, client: str) -> str:
    """Topic on which the server speaks to one client."""
    return f"fl/{run}/down/{client}"


def up(run: str, client: str) -> str:
    """Topic on which one client speaks to the server."""
    return f"fl/{run}/up/{client}"


def status(run: str, client: str) -> str:
    """Topic of one client's presence."""
    return f"fl/{run}/status/{client}"


def client_subscriptions(run: str, client: str) -> list[str]:
    """The topics that a client subscribes to."""
    return [state(run), down(run, client)]


def server_subscriptions(run: str) -> list[str]:
    """The topics, with wildcards, that the server subscribes to."""
    return [up(run, "+"), status(run, "+")]


def parse(topic: str) -> TopicParts:
    """Split a topic into its parts.

    Raises:
        WireError: "topic", when it is none of the four above.
    """
    match topic.split("/"):
        case ["fl", run, "state"] if _NAME.fullmatch(run):
            return TopicParts(run, "state", "")
        case ["fl", run, ("down" | "up" | "status") as kind, client] if _NAME.fullmatch(
            run
        ) and _NAME.fullmatch(client):
            return TopicParts(run, kind, client)
        case _:
            raise WireError("topic", f"{topic[:80]!r} is no topic of a run")
