"""Who may say and hear what at the broker: the access list of a fleet, in Mosquitto's form.

Every member has lines of its own, and none are for all, so whoever is taken off the list has no rights left,
even with a connection that stands or a certificate that the broker still takes.

A device has the name that it has in topics. The names of the others have a dot, which no client's name has:
`server.RUN`, `operator.NAME`, `observer.NAME`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from broker.wire import metric_page, topics

Role = Literal["device", "server", "operator", "observer"]
ROLES: tuple[Role, ...] = ("device", "server", "operator", "observer")
Action = Literal["read", "write"]


class Right(NamedTuple):
    """That a member may read what is said on the topics of a filter, or write there, or both."""

    access: Literal["read", "write", "readwrite"]
    filter: str

    @property
    def line(self) -> str:
        """The line of Mosquitto's acl_file."""
        return f"topic {self.access} {self.filter}"


def user_of(role: Role, name: str) -> str:
    """Give a member's user name at the broker.

    Args:
        role: what it is in the fleet.
        name: a device's own name, the run of a server, or what people call an operator or observer.

    Raises:
        RunError: a name that cannot stand in a topic.
    """
    topics.check_name(name)
    return name if role == "device" else f"{role}.{name}"


def role_of(user: str) -> tuple[Role, str]:
    """Give the role and the name that a user name stands for, see user_of."""
    for role in ROLES[1:]:
        if user.startswith(f"{role}."):
            return role, user.partition(".")[2]
    return "device", user


def rights_of(user: str, runs: Sequence[str]) -> list[Right]:
    """Give the rights of a member.

    A device may take part in each of the fleet's runs, and a server in its own. An operator may do
    everything. An observer sees what servers publish for observers, and the states of runs.

    Args:
        user: its name at the broker.
        runs: of the fleet.
    """
    role, name = role_of(user)
    if role == "operator":
        return [Right("readwrite", "fl/#")]
    if role == "observer":
        return [Right("read", topics.every_state("+")), Right("read", topics.watch("+", "#"))]
    if role == "server":
        return [
            Right("readwrite", topics.state(name)),
            Right("readwrite", topics.server(name)),
            Right("write", topics.scenario(name)),
            Right("write", topics.down(name, "+")),
            Right("write", topics.watch(name, "#")),
            Right("read", topics.every_state(name)),
            Right("read", topics.up(name, "+")),
            Right("read", topics.every_status(name)),
        ]
    return [
        right
        for run in runs
        for right in (
            Right("read", topics.every_state(run)),
            Right("read", topics.scenario(run)),
            Right("read", topics.down(run, name)),
            Right("read", topics.watch(run, metric_page.PAGE)),
            Right("write", topics.up(run, name)),
            Right("write", topics.status(run, name)),
        )
    ]


def access_list(users: Iterable[str], runs: Sequence[str]) -> str:
    """Write Mosquitto's acl_file for the members of a fleet."""
    members = (
        "\n".join([f"user {user}", *(right.line for right in rights_of(user, runs))]) for user in users
    )
    return "\n\n".join(["# written by fedlite fleet; whoever is not in it may do nothing", *members]) + "\n"


def read_access_list(text: str) -> dict[str, list[Right]]:
    """Read what access_list wrote.

    Raises:
        ValueError: a line that it does not write.
    """
    rights: dict[str, list[Right]] = {}
    user: str | None = None
    for line in text.splitlines():
        match line.split(" "):
            case [""] | ["#", *_]:
                pass
            case ["user", name]:
                user = name
                rights.setdefault(user, [])
            case ["topic", ("read" | "write" | "readwrite") as access, topic] if user is not None:
                rights[user].append(Right(access, topic))
            case _:
                raise ValueError(f"not a line of a fleet's access list: {line!r}")
    return rights


class Rights:
    """Answers for the embedded broker what Mosquitto answers from the same access list.

    Args:
        by_user: the rights of each member.
    """

    def __init__(self, by_user: Mapping[str, Sequence[Right]]) -> None:
        self._by_user = by_user

    def may(self, user: str, action: Action, topic: str) -> bool:
        """Tell whether a user may read or write on a topic."""
        return any(covers(each, topic) for each in self._filters(user, action))

    def may_subscribe(self, user: str, topic_filter: str) -> bool:
        """Tell whether a user may hear any of a filter's topics; what it may not hear is not delivered."""
        return any(overlap(each, topic_filter) for each in self._filters(user, "read"))

    def _filters(self, user: str, action: Action) -> Iterable[str]:
        return (right.filter for right in self._by_user.get(user, ()) if action in right.access)


def covers(topic_filter: str, topic: str) -> bool:
    """Tell whether a topic, without wildcards, is one of a filter's (MQTT 3.1.1, 4.7)."""
    return not {"+", "#"} & set(topic.split("/")) and overlap(topic_filter, topic)


def overlap(one: str, other: str) -> bool:
    """Tell whether two filters have a topic in common; `#` also stands for no level at all."""
    first, second = one.split("/"), other.split("/")
    for mine, yours in zip(first, second, strict=False):
        if "#" in (mine, yours):
            return True
        if mine != yours and "+" not in (mine, yours):
            return False
    longer = max(first, second, key=len)
    return len(first) == len(second) or longer[min(len(first), len(second))] == "#"
