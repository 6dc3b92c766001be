"""Which rung of the ladder each client gets for a round."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from broker.wire.messages import Activations, Assignment, BatchDown, BatchUp, HeadUpdate
from scenarios.schema.flows import Codecs, tensor_bytes
from server_node.protocol.adapting.measured import MeasuredLink, Volume
from server_node.protocol.exchange import Exchange, Turn
from server_node.vocabulary.head_share import HeadShare
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.plan import Plan

MARGIN = 0.8
"""A rung fits if it is expected to need no more than this share of the time: no link is quite as expected."""


def choose(
    seconds: Sequence[Sequence[float]], deadline_s: float | None = None, enough: int | None = None
) -> list[int]:
    """Give each client of a round the finest rung with which its answer comes in time, or its quickest one.

    With a deadline this is the time. Without one a round lasts, however coarse its codecs, until the last
    answer that it waits for could be there. Whoever is no slower than that holds up nobody.

    Args:
        seconds: that each client is expected to need for the round with each rung, the finest rung first.
        deadline_s: after so long the round does not wait for all.
        enough: so many answers end the round; all if not given.
    """
    quickest = [min(rungs) for rungs in seconds]
    time_s = sorted(quickest)[:enough][-1] if deadline_s is None else deadline_s
    return [
        next((rung for rung, s in enumerate(rungs) if s <= MARGIN * time_s), rungs.index(least))
        for rungs, least in zip(seconds, quickest, strict=True)
    ]


class Ladder:
    """Measures the links of all clients, and chooses rungs by that; does nothing where there is no ladder.

    A live server that starts anew measures them anew: nothing of this is in its checkpoint. By then the links
    may be other ones, and two answers of a client are enough.

    Args:
        plan: see Plan.
        ledger: counts what goes on with each rung.
    """

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._counts = ledger.rungs
        ledger.expect_rungs(len(plan.ladder))
        self._links: defaultdict[str, MeasuredLink] = defaultdict(MeasuredLink)
        self._volumes: dict[tuple[Codecs, HeadShare], Volume] = {}

    def choose(self, clients: Sequence[str], at_work: Iterable[str]) -> Mapping[str, int]:
        """Give a rung to each client that is to be assigned.

        A client of which nothing is known has the coarsest one: that costs least if its link is slow.

        Args:
            clients: they.
            at_work: those that are members of a round already; they are not held up either.
        """
        rungs = range(len(self._plan.ladder))
        if not rungs or not clients:
            return dict.fromkeys(clients, 0)
        known = self._links.keys() & clients
        seconds = [[self.seconds(client, rung) for rung in rungs] for client in (*clients, *at_work)]
        policy = self._plan.round_policy
        chosen = choose(seconds, policy.deadline_s, policy.enough)
        fitting = zip(clients, chosen, strict=False)  # nobody at work gets another one
        return {client: rung if client in known else rungs[-1] for client, rung in fitting}

    def seconds(self, client: str, rung: int) -> float:
        """Say how long a client is expected to need for a round with a rung."""
        return self._links[client].seconds(self._volume(client, rung))

    def answered(self, client: str, member: Exchange, answer: BatchUp | HeadUpdate, now_s: float) -> None:
        """Count an answer, and learn from it, unless what it answers was sent more than once."""
        if not self._plan.ladder:
            return
        up_bytes, down_bytes = _size(answer), _size(_owed_to(member))
        count = self._counts[member.rung]
        count.payload_bytes += up_bytes + down_bytes
        count.answered += isinstance(answer, HeadUpdate)
        if not member.resends:
            self._links[client].observe(now_s - member.sent_s, up_bytes, down_bytes)

    def too_late(self, client: str, member: Exchange, now_s: float) -> None:
        """Count and learn from an answer that is not waited for any longer: it takes at least so long."""
        if not self._plan.ladder:
            return
        self._counts[member.rung].late += 1
        if member.turn is Turn.CLIENT and not member.resends:
            up_bytes, down_bytes = self._owed_bytes(client, member), _size(_owed_to(member))
            self._links[client].observe_at_least(now_s - member.sent_s, up_bytes, down_bytes)

    def _owed_bytes(self, client: str, member: Exchange) -> int:
        """Say how large the answer is, at most, that a member owes: its update after the batches."""
        answers, up_bytes, _ = self._volume(client, member.rung)
        share = self._plan.share_of(client)
        codec = share.head_codec(self._plan.codecs_of(client, member.rung).head_update_up)
        update_bytes = codec.size_bytes(share.form.parameters)
        owes_update = member.step == self._plan.steps
        return update_bytes if owes_update else (up_bytes - update_bytes) // max(1, answers - 1)

    def _volume(self, client: str, rung: int) -> Volume:
        of = self._plan.codecs_of(client, rung), self._plan.share_of(client)
        if of not in self._volumes:
            self._volumes[of] = volume_of(self._plan, *of)
        return self._volumes[of]


def volume_of(plan: Plan, codecs: Codecs, share: HeadShare) -> Volume:
    """Give what a round takes of a client with full batches, some codecs, and a share of the head."""
    local_steps = plan.steps // plan.exchanges  # none in FedAvg
    sizes = {"activations_up": share.cut_size} if local_steps else {}
    if local_steps and share.form.learns:
        sizes["gradient_down"] = share.cut_size
    if plan.u_shape:
        sizes |= {"features_down": plan.features_size, "feature_gradient_up": plan.features_size}
    of_batch = tensor_bytes(codecs, sizes, plan.batch_size)
    if not plan.labels_stay:
        of_batch["targets_up"] = plan.targets.size_bytes(plan.batch_size)
    up, down = (
        share.head_codec(codec).size_bytes(share.form.parameters)
        + local_steps * sum(size for flow, size in of_batch.items() if flow.endswith(direction))
        for codec, direction in ((codecs.head_update_up, "_up"), (codecs.head_state_down, "_down"))
    )
    return Volume(plan.steps + 1, up, down)


def _owed_to(member: Exchange) -> Assignment | BatchDown:
    """Give the message to which a member owes its answer."""
    return member.said or member.assignment


def _size(message: Assignment | BatchDown | BatchUp | HeadUpdate) -> int:
    """Give the bytes of what a message is sent for; its envelope counts as fixed time."""
    match message:
        case Assignment(head=head):
            return len(head)
        case Activations(payload=payload, targets=targets):
            return len(payload) + len(targets)
        case _:
            return len(message.payload)
