"""Topic names of a run, and the names that may stand in them.

    fl/3/<run>/state             server -> everybody   RunState, retained; the server's last will
    fl/3/<run>/scenario          server -> everybody   the resolved scenario, retained
    fl/3/<run>/server            among servers         Claim; StopRun of an operator
    fl/3/<run>/d/<client>        server -> one client  Assignment, Gradient, Ask, Released, Welcome, Rejected
    fl/3/<run>/u/<client>        client -> server      Hello, Activations, HeadUpdate, Progress
    fl/3/<run>/status/<client>   client -> server      Status, retained; the client's last will
    fl/3/<run>/watch/<page>      server -> whoever watches   JSON, retained; no part of the protocol

The second level is the protocol's version. Clients listen to the state of all versions, and the server to the
status of all, so that each side can say that the other speaks another version. Topics are in every message:
those of a round (d for down, u for up) are short.

Which run and client a message belongs to stands in its topic alone, and no message repeats it. So an access
list at the broker is enough to hold each device to its own name.
"""

import re
from functools import lru_cache
from typing import NamedTuple

from broker.errors import RunError
from broker.wire import metric_page
from broker.wire.errors import WireError
from broker.wire.messages import VERSION

_ROOT = f"fl/{VERSION}"
_VERSION = re.compile(r"[1-9][0-9]{0,3}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")
_OF_CLIENT = {"d": "down", "u": "up", "status": "status"}


class TopicParts(NamedTuple):
    """Where a message was published.

    Attributes:
        version: of the protocol.
        run: name of the run.
        kind: of the topic: "state", "scenario", "server", "down", "up", "status" or "watch".
        client: empty for the topics of all.
    """

    version: int
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
    return f"{_ROOT}/{run}/state"


def every_state(run: str) -> str:
    """Filter for the run's state in all versions of the protocol."""
    return f"fl/+/{run}/state"


def scenario(run: str) -> str:
    """Topic of the run's resolved scenario, retained."""
    return f"{_ROOT}/{run}/scenario"


def server(run: str) -> str:
    """Topic on which servers of the run speak among themselves, and an operator to them."""
    return f"{_ROOT}/{run}/server"


def down(run: str, client: str) -> str:
    """Topic on which the server speaks to one client."""
    return f"{_ROOT}/{run}/d/{client}"


def up(run: str, client: str) -> str:
    """Topic on which one client speaks to the server."""
    return f"{_ROOT}/{run}/u/{client}"


def status(run: str, client: str) -> str:
    """Topic of one client's presence."""
    return f"{_ROOT}/{run}/status/{client}"


def every_status(run: str) -> str:
    """Filter for the presence of all clients in all versions of the protocol."""
    return f"fl/+/{run}/status/+"


def watch(run: str, page: str) -> str:
    """Topic of a page for whoever watches the run; a page's name may have a slash."""
    return f"{_ROOT}/{run}/watch/{page}"


def client_subscriptions(run: str, client: str, *, shows_metric: bool = False) -> list[str]:
    """What a client listens to; of the pages only the one that it may show."""
    page = [watch(run, metric_page.PAGE)] if shows_metric else []
    return [every_state(run), down(run, client), *page]


def is_needed(topic_filter: str) -> bool:
    """Tell whether a client that may not hear a filter's topics cannot take part."""
    return not topic_filter.endswith(f"/watch/{metric_page.PAGE}")


def server_subscriptions(run: str) -> list[str]:
    """What the server listens to."""
    return [up(run, "+"), every_status(run), state(run), server(run)]


@lru_cache(maxsize=1024)  # a process sees few topics, and each of them often
def parse(topic: str) -> TopicParts:
    """Split a topic into its parts.

    Raises:
        WireError: "topic", when it is none of those above.
    """
    match topic.split("/"):
        case ["fl", version, run, ("state" | "scenario" | "server") as kind] if _are_names(version, run):
            return TopicParts(int(version), run, kind, "")
        case ["fl", version, run, kind, client] if kind in _OF_CLIENT and (
            _are_names(version, run) and _NAME.fullmatch(client)
        ):
            return TopicParts(int(version), run, _OF_CLIENT[kind], client)
        case ["fl", version, run, "watch", _, *_] if _are_names(version, run):
            return TopicParts(int(version), run, "watch", "")
        case _:
            raise WireError("topic", f"{topic[:80]!r} is no topic of a run")


def _are_names(version: str, run: str) -> bool:
    return _VERSION.fullmatch(version) is not None and _NAME.fullmatch(run) is not None
