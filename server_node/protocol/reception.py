"""Who comes, who is greeted, who is refused: what the server does about clients apart from their work."""

from collections.abc import Callable
from typing import Any

from broker.codecs.targets import Labels
from broker.machine.actions import CancelTimer, Publish, Report, StartTimer
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import (
    Activations,
    FeatureGradient,
    HeadUpdate,
    Hello,
    Message,
    Progress,
    Rejected,
    Released,
    Scores,
    Status,
    Welcome,
)
from scenarios.schema.network import tell_names
from server_node.protocol.admission import check_greeting
from server_node.protocol.cohort import Cohort
from server_node.protocol.presence import QUIET_S, Presence, RateLimit
from server_node.protocol.rivals import Rivals
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Gathering, Noticed, Refused

CALL_S = 10.0
"""How long a client that says that it is online may take to greet before it is asked to."""

_OF_MEMBERS = (Activations, HeadUpdate, Progress, FeatureGradient, Scores)

Take = Callable[[str, Any, float], WireError | None]
"""Takes what a member has computed; see server_node.protocol.cohort."""


class Reception:
    """Hears clients: what they answer goes to the cohort, and whether they are there is kept here.

    Args:
        plan: see Plan.
        ledger: counts what is refused or late.
        rivals: knows the server's own incarnation.
        cohort: takes what members answer.

    Attributes:
        presence: who is there.
        gathers: whether the first round has not begun; then it is reported who comes.
    """

    def __init__(self, plan: Plan, ledger: Ledger, rivals: Rivals, cohort: Cohort) -> None:
        self.presence = Presence()
        self.gathers = True
        self._plan = plan
        self._roster = frozenset(plan.clients)
        self._ledger = ledger
        self._rivals = rivals
        self._cohort = cohort
        self._takes: dict[type[Message], Take] = {
            Activations: cohort.take_batch,
            FeatureGradient: cohort.take_batch,
            HeadUpdate: cohort.take_update,
            Scores: cohort.take_scores,
        }
        self._rate_limit = RateLimit()
        self._call_s = CALL_S  # from one call to the next; they become rarer until the next connection
        self._calls = False  # whether the timer runs

    def connected(self) -> None:
        """Note that the server's connection stands anew: greetings may have been lost."""
        self._call_s = CALL_S

    def received(self, sender: str, message: Message, now_s: float) -> list[ServerAction]:
        """Take a message of a client."""
        if sender not in self._roster:
            fleet = tell_names(self._plan.clients)
            return self.refuse(sender, WireError("roster", f"{sender!r} is no client of this run; {fleet}"))
        if isinstance(message, _OF_MEMBERS):
            if message.server != self._rivals.incarnation:
                self._ledger.discarded_late += 1
                return []
            if isinstance(message, Progress):
                return [*self._appeared(sender), *self._cohort.repair(sender, message, now_s)]
            refused = self._takes[type(message)](sender, message, now_s)
            return self._appeared(sender) if refused is None else self.refuse(sender, refused)
        match message:
            case Hello():
                return self._greeted(sender, message, now_s)
            case Status(online=True, session=session):
                self.presence.says_online(sender, session)
                return self._await_greetings()
            case Status(session=session):
                return self._vanished(sender, session)
            case _:
                kind = type(message).__name__
                return self.refuse(sender, WireError("direction", f"a client does not send {kind}"))

    def _appeared(self, client: str) -> list[ServerAction]:
        """Note a sign of life: whoever speaks is there."""
        self.presence.ungreeted.discard(client)
        if client in self.presence.online or client in self.presence.empty:
            return []
        self.presence.online.add(client)
        actions: list[ServerAction] = [CancelTimer(f"rejoin:{client}")]
        if self.gathers:
            actions.append(Report(Gathering(len(self.presence.online))))
        return actions

    def _greeted(self, client: str, hello: Hello, now_s: float) -> list[ServerAction]:
        self.presence.ungreeted.discard(client)
        differs = check_greeting(self._plan, hello)
        if differs is not None:
            return self.refuse(client, differs)
        self.presence.says_online(client, hello.session)
        self.presence.has(client, hello.samples, hello.held_out)
        self._cohort.needs(client, hello.rows)
        actions = self._appeared(client)
        if not hello.samples and self.presence.notice(client, "empty"):
            actions.append(Report(Noticed(client, "has no samples; it is not chosen before it has some")))
        other = hello.package and hello.package != self._plan.package
        if other and self.presence.notice(client, "version"):
            packages = f"has version {hello.package} of the package, the server {self._plan.package}"
            actions.append(Report(Noticed(client, packages)))
        if client in self._rate_limit:
            self._rate_limit.postpone(client, hello)
            return actions
        actions.append(self._keep_quiet(client))
        if hello.wants_welcome:
            actions.append(Publish(topics.down(self._plan.run, client), self._welcome(client)))
        return [*actions, *self._cohort.greeted(client, now_s)]

    def _await_greetings(self) -> list[ServerAction]:
        """Let some time pass before clients that are online are asked to greet.

        A client greets when it hears of a server. When the broker has started anew, it may be back before the
        server is, and greet nobody.
        """
        if self._calls or not self.presence.ungreeted:
            return []
        self._calls = True
        return [StartTimer("call", self._call_s)]

    def call(self, *, in_charge: bool) -> list[ServerAction]:
        """Ask those who are online and have not greeted to do so; the timer has fired."""
        self._calls = False
        self._call_s = min(2 * self._call_s, self._plan.retry_s)
        if not in_charge:
            return self._await_greetings()
        call = Released(self._rivals.incarnation, 0, greet=True)
        silent = sorted(self.presence.ungreeted)
        calls = [Publish(topics.down(self._plan.run, client), call) for client in silent]
        return [*calls, *self._await_greetings()]

    def _vanished(self, client: str, session: int) -> list[ServerAction]:
        if not self.presence.says_offline(client, session):
            return []
        self._rate_limit.forget_greeting(client)
        if client not in self._cohort.members:
            return []
        return [StartTimer(f"rejoin:{client}", self._plan.rejoin_s)]

    def quiet_is_over(self, client: str, now_s: float) -> list[ServerAction]:
        """Take up the greeting that came while the client was not answered."""
        greeting = self._rate_limit.end(client)
        return [] if greeting is None else self._greeted(client, greeting, now_s)

    def _welcome(self, client: str) -> Welcome:
        plan = self._plan
        outputs = plan.targets.wire_parts()
        plain = isinstance(plan.targets, Labels)
        classes, values = map(int, outputs[0][2:] if plain else (0, 0))
        return Welcome(
            self._rivals.incarnation,
            plan.batch_size,
            plan.local_steps,
            plan.share_of(client).cut_size,
            classes,
            values,
            plan.packet_bytes,
            plan.share_of(client).initial,
            [] if plain else outputs,
        )

    def undecodable(self, sender: str, error: WireError) -> list[ServerAction]:
        """Refuse bytes that are no message. One of another version is told of once, and not answered.

        It may be retained from before an update, and its sender does not listen here.
        """
        if error.reason != "version":
            return self.refuse(sender, error)
        whose = sender if sender in self._roster else ""
        self._ledger.reject(whose or "strangers", error.reason, str(error))
        return [Report(Refused(sender, str(error)))] if self.presence.notice(whose, "version") else []

    def refuse(self, client: str, error: WireError) -> list[ServerAction]:
        """Count a bad message; tell its sender unless it was told something a moment ago."""
        whose = client if client in self._roster else ""  # strangers share one limit
        self._ledger.reject(whose or "strangers", error.reason, str(error))
        if whose in self._rate_limit:
            return []
        answer = Publish(topics.down(self._plan.run, client), Rejected(error.reason, str(error)[:512]))
        return [self._keep_quiet(whose), Report(Refused(client, str(error))), answer]

    def _keep_quiet(self, client: str) -> ServerAction:
        self._rate_limit.begin(client)
        return StartTimer(f"quiet:{client}", QUIET_S)
