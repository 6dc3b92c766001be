"""Who is there, whose greetings are answered at most once a second, and who is drawn for a cohort."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np

from broker.wire.messages import Hello
from scenarios.seeds import generator

QUIET_S = 1.0
"""A client's greetings and errors are answered at most once in this time."""


@dataclass(slots=True)
class Presence:
    """Who is there.

    Attributes:
        online: clients that can be chosen.
        sessions: of each client the connection that it spoke of last.
        noticed: what was said of which client, once: that its software is of another version, or that it has
            no samples.
        empty: clients that are there and have no samples to train on; they cannot be chosen.
        held_out: of each client the samples that it keeps for evaluation, if it keeps any.
        ungreeted: clients that say that they are online, and have not greeted since; they cannot be chosen.
    """

    online: set[str] = field(default_factory=set)
    sessions: dict[str, int] = field(default_factory=dict)
    noticed: set[tuple[str, str]] = field(default_factory=set)
    empty: set[str] = field(default_factory=set)
    held_out: dict[str, int] = field(default_factory=dict)
    ungreeted: set[str] = field(default_factory=set)

    def notice(self, client: str, what: str) -> bool:
        """Say whether this is the first time that it is noticed of a client."""
        first = (client, what) not in self.noticed
        self.noticed.add((client, what))
        return first

    def has(self, client: str, samples: int, held_out: int) -> None:
        """Note how many samples a client has."""
        if held_out:
            self.held_out[client] = held_out
        else:
            self.held_out.pop(client, None)
        if samples:
            self.empty.discard(client)
        else:
            self.empty.add(client)
            self.online.discard(client)

    def evaluators(self) -> dict[str, int]:
        """Give the clients that are there and keep samples for evaluation, with their number."""
        return {
            client: samples
            for client, samples in self.held_out.items()
            if client in self.online or client in self.empty
        }

    def says_online(self, client: str, session: int) -> None:
        """Note a client's present connection."""
        self.sessions[client] = session
        if client not in self.online:
            self.ungreeted.add(client)

    def says_offline(self, client: str, session: int) -> bool:
        """Note that a connection has ended; say whether it was the client's present one.

        The last will of an earlier connection may arrive after the client has come back.
        """
        if session < self.sessions.get(client, 0):
            return False
        self.online.discard(client)
        self.empty.discard(client)
        self.ungreeted.discard(client)
        return True


@dataclass(slots=True)
class RateLimit:
    """Whom the server has answered a moment ago.

    Attributes:
        greetings: of each such client the greeting that came meanwhile, if one did; it is taken up when the
            client's time is over.
    """

    greetings: dict[str, Hello | None] = field(default_factory=dict)

    def __contains__(self, client: str) -> bool:
        return client in self.greetings

    def begin(self, client: str) -> None:
        """Answer this client no more until `end`."""
        self.greetings[client] = None

    def postpone(self, client: str, greeting: Hello) -> None:
        """Keep a greeting for later; the last one counts."""
        self.greetings[client] = greeting

    def forget_greeting(self, client: str) -> None:
        """Drop what was kept for later: the client has gone."""
        if client in self.greetings:
            self.greetings[client] = None

    def end(self, client: str) -> Hello | None:
        """Answer this client again; give the greeting that was kept."""
        return self.greetings.pop(client, None)


def draw_cohort(
    clients: tuple[str, ...],
    online: set[str],
    at_work: Collection[str],
    wanted: int,
    *,
    seed: int,
    number: int,
) -> list[str]:
    """Draw clients for a round from those that are online and not at work, each as likely; sorted.

    Args:
        clients: names of the fleet.
        online: those that are there.
        at_work: those that are members of a round already.
        wanted: how many; all who are free if they are fewer.
        seed: of the scenario.
        number: the round's.
    """
    rng = generator(seed, "cohort", number)
    free = len(online) - sum(client in online for client in at_work)
    if 8 * (free - wanted) < len(clients):
        candidates = sorted(online.difference(at_work))
        return [candidates[i] for i in np.sort(rng.choice(free, min(wanted, free), replace=False))]
    # One draw in eight or more hits, so a round does not look through the whole of a large fleet.
    chosen: set[str] = set()
    while len(chosen) < wanted:
        drawn = (clients[i] for i in rng.integers(len(clients), size=wanted - len(chosen)).tolist())
        chosen.update(client for client in drawn if client in online and client not in at_work)
    return sorted(chosen)
