"""Whatever happens to messages, connections and processes: nothing is counted twice, and every run ends.

FEDLITE_SCHEDULES=2500 .venv/bin/pytest tests/protocol/test_any_schedule.py -k long     10,000 schedules
"""

import os
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server_node.protocol.exchange import MAX_RESENDS
from server_node.vocabulary.plan import Plan, RoundPolicy
from tests.protocol.world import ADAPTIVE, FLEET, NOW_AND_THEN, ONE_WAY, PLAN, U_SHAPE, World, has_begun

POLICIES = {
    "wait_all": RoundPolicy(2),
    "deadline": RoundPolicy(3, deadline_s=50.0, minimum=1),
    "over_select": RoundPolicy(3, enough=2),
    "buffered": RoundPolicy(3, enough=2, max_staleness=2),
}
KINDS = (
    PLAN,
    replace(PLAN, held_out=True),
    U_SHAPE,
    replace(U_SHAPE, held_out=True),
    replace(ADAPTIVE, held_out=True),
    replace(ONE_WAY, held_out=True),
    NOW_AND_THEN,
    replace(PLAN, head_since_last=True, held_out=True),
)
NAMES = (
    "split",
    "split, held out",
    "u-shape",
    "u-shape, held out",
    "adaptive, held out",
    "one-way, held out",
    "one-way now and then",
    "heads as changes, held out",
)
SCHEDULES = int(os.environ.get("FEDLITE_SCHEDULES", "300"))
"""Of plain random numbers: a hundred times as fast as hypothesis, which finds short ones."""

each_policy = pytest.mark.parametrize("policy", sorted(POLICIES))


def events(world: World, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 20)):
        possible = list(world.busy())
        if possible:
            world.do(rng.choice(possible))


def time_passes(world: World, rng: random.Random) -> None:
    world.pass_time(rng.choice([0.1, 1.0, 10.0, 100.0, 1000.0]))


def a_message_is_lost(world: World, rng: random.Random) -> None:
    client = world.clients[rng.choice(FLEET)]
    wire = rng.choice([client.up, client.down])
    if wire:
        wire.popleft()


def a_message_is_doubled(world: World, rng: random.Random) -> None:
    client = world.clients[rng.choice(FLEET)]
    wire = rng.choice([client.up, client.down])
    if wire:
        wire.insert(rng.randint(1, len(wire)), wire[0])


def messages_change_places(world: World, rng: random.Random) -> None:
    client = world.clients[rng.choice(FLEET)]
    rng.choice([client.up, client.down]).rotate(1)


def a_client_loses_its_connection(world: World, rng: random.Random) -> None:
    name = rng.choice(FLEET)
    if world.clients[name].connected:
        world.lose_client(name, will=rng.random() < 0.5)


def a_client_comes_back(world: World, rng: random.Random) -> None:
    name = rng.choice(FLEET)
    client = world.clients[name]
    if not client.connected and client.frozen_s is None and client.left is None:
        world.connect_client(name)


def a_client_starts_anew(world: World, rng: random.Random) -> None:
    name = rng.choice(FLEET)
    world.clients[name].frozen_s = None
    world.lose_client(name)
    world.start_client(name)


def a_client_freezes_or_wakes(world: World, rng: random.Random) -> None:
    client = world.clients[rng.choice(FLEET)]
    client.frozen_s = world.now_s if client.frozen_s is None else None


def the_server_loses_its_connection(world: World, rng: random.Random) -> None:
    if world.server.connected:
        world.lose_server(world.server, will=rng.random() < 0.8)


def a_server_comes_back(world: World, rng: random.Random) -> None:
    server = rng.choice(world.servers)
    if server.is_awake and not server.connected:
        world.connect_server(server)


def the_server_is_killed_and_starts_anew(world: World, rng: random.Random) -> None:
    world.kill_server(world.server)
    if rng.random() < 0.8:
        world.start_server()


def one_more_server_starts(world: World, rng: random.Random) -> None:
    if world.has_rivals and all(server.ended is not None or has_begun(server) for server in world.servers):
        world.start_server(takeover=rng.random() < 0.5)


def a_server_freezes_or_wakes(world: World, rng: random.Random) -> None:
    server = rng.choice(world.servers)
    if has_begun(server):
        server.frozen_s = world.now_s if server.frozen_s is None else None


def the_broker_starts_anew(world: World, rng: random.Random) -> None:
    """With two servers alive, a broker that forgets or does not tell who is in charge is too much."""
    if not world.has_rivals:
        world.restart_broker(persistent=rng.random() < 0.5)


FAULTS = (
    a_message_is_lost,
    a_message_is_doubled,
    messages_change_places,
    a_client_loses_its_connection,
    a_client_comes_back,
    a_client_comes_back,
    a_client_starts_anew,
    a_client_freezes_or_wakes,
    the_server_loses_its_connection,
    a_server_comes_back,
    a_server_comes_back,
    the_server_is_killed_and_starts_anew,
    one_more_server_starts,
    a_server_freezes_or_wakes,
    the_broker_starts_anew,
)


def check(world: World) -> None:
    """Hold a world against what is true at every moment."""
    assert set(world.batches.values()) <= {1}, "a step counts twice"
    for server in world.servers:
        first = server.rounds_before + 1
        assert server.rounds == list(range(first, first + len(server.rounds))), "a round closes twice"
        assert server.in_vain <= 1, "a server goes on after another one has begun"
    for (_, _, kind, _, _), count in world.tensors.items():
        assert count <= 1 + world.faults, f"{kind} is repeated more often than there were faults"
    assert all(client.core.session >= 0 for client in world.clients.values())


def check_the_end(world: World) -> None:
    """Stop all faults; then the run ends, everybody leaves, and nobody was given up."""
    asked = world.said["Ask"]
    world.hear_all()
    if world.ended is None:
        (in_charge,) = (server for server in world.servers if server.ended is None)
        assert in_charge.core._presence.online >= set(FLEET), "a client that is there cannot be chosen"
    world.settle()
    check(world)
    assert world.rounds_done == PLAN.rounds
    assert world.said["Ask"] - asked <= 40 * len(FLEET) * PLAN.rounds, "asks without an end"


class AnySchedule(RuleBasedStateMachine):
    """Short schedules, chosen by hypothesis, which also makes a failing one as short as it can be."""

    @initialize(
        policy=st.sampled_from(sorted(POLICIES)),
        says_later=st.booleans(),
        has_rivals=st.booleans(),
        kind=st.sampled_from(KINDS),
    )
    def begin(self, policy: str, kind: Plan, *, says_later: bool, has_rivals: bool) -> None:
        plan = replace(kind, round_policy=POLICIES[policy])
        self.world = World(plan, says_later=says_later, has_rivals=has_rivals)

    @rule(data=st.data(), steps=st.integers(1, 30))
    def something_happens(self, data: st.DataObject, steps: int) -> None:
        for _ in range(steps):
            possible = list(self.world.busy())
            if not possible:
                return
            self.world.do(data.draw(st.sampled_from(possible)))

    @rule(rng=st.randoms(use_true_random=False))
    def time_passes(self, rng: random.Random) -> None:
        time_passes(self.world, rng)

    @rule(fault=st.sampled_from(FAULTS), rng=st.randoms(use_true_random=False))
    def there_is_a_fault(self, fault: object, rng: random.Random) -> None:
        assert callable(fault)
        if self.world.ended is None:
            fault(self.world, rng)
            self.world.faults += 1

    @invariant()
    def holds(self) -> None:
        if hasattr(self, "world"):
            check(self.world)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            check_the_end(self.world)


AnySchedule.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnySchedule = AnySchedule.TestCase


@each_policy
@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_without_faults_every_tensor_is_said_once_and_nobody_is_asked(policy: str, kind: Plan) -> None:
    world = World(replace(kind, round_policy=POLICIES[policy]))
    world.settle()
    assert world.metrics == ([None, 1.0, 1.0] if kind.held_out else [None, None, None])
    assert world.ended == "complete"
    assert set(world.tensors.values()) == {1}
    assert world.said["Ask"] == world.said["Progress"] == 0


@each_policy
def test_any_long_schedule_counts_every_step_once_and_ends(policy: str) -> None:
    for seed in range(SCHEDULES):
        try:
            play(policy, seed)
        except AssertionError as error:
            error.add_note(f"policy {policy}, seed {seed}")
            raise


def play(policy: str, seed: int) -> None:
    """Let up to sixty things happen, half of them faults; then the run must come to its end."""
    rng = random.Random(seed)
    plan = replace(KINDS[seed % len(KINDS)], round_policy=POLICIES[policy])
    says_later, has_rivals = rng.random() < 0.5, rng.random() < 0.5
    world = World(plan, says_later=says_later, has_rivals=has_rivals)
    for _ in range(60):
        if world.ended is not None:
            break
        if rng.random() < 0.5:
            rng.choice([events] * 6 + [time_passes])(world, rng)
        else:
            rng.choice(FAULTS)(world, rng)
            world.faults += 1
        check(world)
    check_the_end(world)


@each_policy
@pytest.mark.parametrize("kind", [PLAN, U_SHAPE, ONE_WAY], ids=["split", "u-shape", "one-way"])
def test_a_tensor_is_said_again_a_handful_of_times_at_most(policy: str, kind: Plan) -> None:
    """Every message with a tensor is lost; the server gives its members up instead of sending for ever."""
    world = World(replace(kind, round_policy=POLICIES[policy]))
    for _ in range(400):
        for client in world.clients.values():
            for wire in (client.up, client.down):
                for message in [m for m in wire if hasattr(m, "payload") or hasattr(m, "head")]:
                    wire.remove(message)
        possible = list(world.busy())
        world.do(possible[0]) if possible else world.pass_time(30.0)
    by_round: dict[tuple[int, str, str, int, int], int] = dict(world.tensors)
    assert by_round
    assert max(by_round.values()) <= 1 + MAX_RESENDS
