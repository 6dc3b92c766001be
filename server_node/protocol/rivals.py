"""One server for one run: who else is there, and who of two goes on.

A server that starts says Claim on the run's server topic, where it listens itself, and hears its own claim
come back. By then it has heard the retained state of the run, since the broker sends that first. If the state
is that of a server at work, it waits for an answer to the claim; a server that is dead gives none. Then it
claims once more and begins when that claim comes back, so it cannot begin while it is cut off from the
broker, where an answer would not reach it.

Where the broker lets a user have one connection, two servers with one bundle end each other's, and the
broker says `away` for a server that is alive. So one that starts takes `away` for a server at work, and
waits. The one at work comes back meanwhile and so ends the other's connection; who has lost two that way
before it has begun leaves.

Incarnations order the servers. Each new one takes a number above all that it has heard of. A server that
hears of a higher one, such as one that was frozen for an hour and wakes up, ends without another word; and
clients take nothing from a server below the highest they know.

A server may say that the run has ended at the moment when another one begins. The broker passes both on in
one order, the same for all: if the end comes first, clients leave, and nobody is there for the one that
begins. It knows that when it hears the end before its own first state comes back. Then it leaves, too.
"""

from enum import Enum, auto

import msgspec

from broker.wire.messages import Claim, RunState

MOST_CONNECTIONS = 2
"""One connection may be lost by accident."""


class Verdict(Enum):
    """What a server does about another one."""

    NOTHING = auto()
    BEGIN = auto()
    WAIT = auto()
    """Somebody may be at work; claim again when no answer comes."""
    GIVE_WAY = auto()
    """Somebody is at work."""
    ANSWER = auto()
    """Tell a server that starts that this one is at work."""
    SAY_STATE = auto()
    """The retained state is not this server's any more, but should be."""
    SUPERSEDED = auto()
    OVER = auto()
    """The run had ended when this one began: clients have left, and what is retained must say so again."""


class Rivals:
    """What a server knows of others of its run.

    Args:
        incarnation: the lowest that it may take.
        token: random; tells apart servers that take the same incarnation at the same moment.
        takeover: whether to take the run over from a server that is at work.
        one_connection: the broker ends a server's connection when another one comes with the same bundle.

    Attributes:
        incarnation: its own; fixed when it begins.
        token: see above.
    """

    def __init__(
        self, incarnation: int, token: int, *, takeover: bool = False, one_connection: bool = False
    ) -> None:
        self.incarnation = incarnation
        self.token = token
        self._takeover = takeover
        self._one_connection = one_connection
        self._connections = 0
        self._at_work = False  # another one, as far as the retained state tells
        self._is_open = False  # the run, as far as another server's last state tells
        self._is_told = False  # its own state has come back, so all have heard of it
        self._has_waited = False  # on this connection, for an answer to the claim

    def connected(self) -> Verdict:
        """Take a new connection before it has begun: what was said to claims on the old one may be lost."""
        self._has_waited = False
        self._connections += 1
        is_ended = self._one_connection and self._at_work and self._connections > MOST_CONNECTIONS
        return Verdict.GIVE_WAY if is_ended and not self._takeover else Verdict.NOTHING

    def no_answer(self) -> None:
        """Note that the time for an answer to the claim is over; the claim must be said again."""
        self._has_waited = True

    def claim(self) -> Claim:
        """Give the message by which this server makes itself known."""
        return Claim(self.incarnation, self.token, self._takeover)

    def own(self, state: RunState) -> RunState:
        """Give another server's state with this one's number, so that it counts for clients who know it."""
        return msgspec.structs.replace(state, server=self.incarnation, token=self.token)

    def hear(self, message: Claim | RunState, *, begun: bool) -> Verdict:
        """Take what was said on the topics of servers.

        Args:
            message: of this server itself or of another one.
            begun: whether this server is at work.
        """
        if message.token == self.token:
            if begun:  # an own last will that arrives late, or a claim said after it has connected again
                is_state = isinstance(message, RunState) and message.phase != "away"
                self._is_told = self._is_told or is_state
                return Verdict.NOTHING if is_state else Verdict.SAY_STATE
            return self._decide() if isinstance(message, Claim) else Verdict.NOTHING
        return self._at_work_hears(message) if begun else self._starting_hears(message)

    def _starting_hears(self, message: Claim | RunState) -> Verdict:
        self.incarnation = max(self.incarnation, message.server + 1)
        if isinstance(message, RunState):
            if self._ends(message):  # while this one waited
                return Verdict.GIVE_WAY
            is_gone = message.phase == "away" and not self._one_connection
            self._at_work = message.phase in ("gathering", "running", "away") and not is_gone
            return Verdict.NOTHING
        if self._takeover and not message.takeover:
            return Verdict.NOTHING
        # An answer to our claim; or somebody who starts at the same moment: the lower token gives way.
        return Verdict.GIVE_WAY if self._at_work or self.token < message.token else Verdict.NOTHING

    def _ends(self, state: RunState) -> bool:
        """Say whether another server's state ends a run that was not over before."""
        was_open, self._is_open = self._is_open, state.phase != "finished"
        return was_open and not self._is_open

    def _decide(self) -> Verdict:
        must_wait = self._at_work and not self._takeover and not self._has_waited
        return Verdict.WAIT if must_wait else Verdict.BEGIN

    def _at_work_hears(self, message: Claim | RunState) -> Verdict:
        if isinstance(message, Claim) and not message.takeover:
            return Verdict.ANSWER
        away = isinstance(message, RunState) and message.phase == "away"
        if away and message.server <= self.incarnation:  # somebody vanished before it began
            return Verdict.SAY_STATE
        if (message.server, message.token) > (self.incarnation, self.token):
            return Verdict.SUPERSEDED
        if isinstance(message, Claim):
            return Verdict.ANSWER
        return Verdict.OVER if self._ends(message) and not self._is_told else Verdict.SAY_STATE
