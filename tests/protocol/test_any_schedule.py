"""Whatever happens to messages, connections and processes: nothing is counted twice, and every run ends."""

import os
import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from server_node.protocol.plan import RoundPolicy
from tests.protocol.world import FLEET, PLAN, World

POLICIES = {
    "wait_all": RoundPolicy(2),
    "deadline": RoundPolicy(3, deadline_s=50.0, minimum=1),
    "over_select": RoundPolicy(3, enough=2),
    "buffered": RoundPolicy(3, enough=2, max_staleness=2),
}
names = st.sampled_from(FLEET)
SCHEDULES = int(os.environ.get("FEDLITE_SCHEDULES", "300"))
"""Of plain random numbers: a hundred times as fast as hypothesis, which finds short ones."""


class AnySchedule(RuleBasedStateMachine):
    @initialize(policy=st.sampled_from(sorted(POLICIES)))
    def begin(self, policy: str) -> None:
        self.world = World(replace(PLAN, round_policy=POLICIES[policy]))

    @rule(data=st.data(), steps=st.integers(1, 30))
    def something_happens(self, data: st.DataObject, steps: int) -> None:
        for _ in range(steps):
            possible = list(self.world.busy())
            if not possible:
                return
            self.world.do(data.draw(st.sampled_from(possible)))

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 100.0, 1000.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule(name=names, up=st.booleans())
    def a_message_is_lost(self, name: str, *, up: bool) -> None:
        client = self.world.clients[name]
        wire = client.up if up else client.down
        if wire:
            wire.popleft()
            self.world.faults += 1

    @rule(name=names, up=st.booleans())
    def a_message_is_doubled(self, name: str, *, up: bool) -> None:
        client = self.world.clients[name]
        wire = client.up if up else client.down
        if wire:
            wire.insert(1, wire[0])
            self.world.faults += 1

    @rule(name=names, up=st.booleans())
    def messages_change_places(self, name: str, *, up: bool) -> None:
        client = self.world.clients[name]
        wire = client.up if up else client.down
        if len(wire) > 1:
            wire.rotate(1)
            self.world.faults += 1

    @rule(name=names, will=st.booleans())
    def a_client_loses_its_connection(self, name: str, *, will: bool) -> None:
        if self.world.clients[name].connected:
            self.world.lose_client(name, will=will)
            self.world.faults += 1

    @rule(name=names)
    def a_client_comes_back(self, name: str) -> None:
        if not self.world.clients[name].connected:
            self.world.connect_client(name)

    @rule(name=names)
    def a_client_starts_anew(self, name: str) -> None:
        self.world.lose_client(name)
        self.world.start_client(name)
        self.world.faults += 1

    @rule()
    def the_server_loses_its_connection(self) -> None:
        if self.world.server_connected:
            self.world.lose_server()
            self.world.faults += 1

    @precondition(lambda self: not self.world.server_connected)
    @rule()
    def the_server_comes_back(self) -> None:
        self.world.connect_server()

    @rule()
    def the_server_starts_anew(self) -> None:
        if self.world.ended is None:
            self.world.lose_server()
            self.world.start_server()
            self.world.faults += 1

    @invariant()
    def no_step_counts_twice(self) -> None:
        if hasattr(self, "world"):
            assert all(count == 1 for count in self.world.batches.values())

    @invariant()
    def no_round_closes_twice(self) -> None:
        if hasattr(self, "world"):
            closed = [number for rounds in self.world.rounds for number in rounds]
            assert closed == sorted(set(closed))

    @invariant()
    def tensors_are_repeated_for_faults_only(self) -> None:
        if hasattr(self, "world"):
            assert all(count <= 1 + self.world.faults for count in self.world.tensors.values())

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()
            assert self.world.ended == "complete"
            assert self.world.rounds[-1][-1:] == [PLAN.rounds] or not self.world.rounds[-1]


AnySchedule.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnySchedule = AnySchedule.TestCase


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_without_faults_every_tensor_is_said_once_and_nobody_is_asked(policy: str) -> None:
    world = World(replace(PLAN, round_policy=POLICIES[policy]))
    world.settle()
    assert world.ended == "complete"
    assert set(world.tensors.values()) == {1}
    assert world.said["Ask"] == world.said["Progress"] == 0


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_any_long_schedule_counts_every_step_once_and_ends(policy: str) -> None:
    for seed in range(SCHEDULES):
        play(World(replace(PLAN, round_policy=POLICIES[policy])), random.Random(seed))


def play(world: World, rng: random.Random) -> None:
    """Let sixty things happen, half of them faults; then the run must come to its end."""
    for _ in range(60):
        name = rng.choice(FLEET)
        client = world.clients[name]
        wire = rng.choice([client.up, client.down])
        match rng.choice(
            ["events"] * 6 + ["time", "lose", "double", "swap", "cut", "back", "anew", "server"]
        ):
            case "events":
                for _ in range(rng.randint(1, 20)):
                    possible = list(world.busy())
                    if possible:
                        world.do(rng.choice(possible))
            case "time":
                world.pass_time(rng.choice([0.1, 1.0, 10.0, 100.0, 1000.0]))
            case "lose" if wire:
                wire.popleft()
            case "double" if wire:
                wire.insert(1, wire[0])
            case "swap" if len(wire) > 1:
                wire.rotate(1)
            case "cut" if client.connected:
                world.lose_client(name, will=rng.random() < 0.5)
            case "back" if not client.connected:
                world.connect_client(name)
            case "anew":
                world.lose_client(name)
                world.start_client(name)
            case "server" if not world.server_connected:
                world.connect_server()
            case "server" if world.ended is None:
                world.lose_server()
                if rng.random() < 0.5:
                    world.start_server()
        world.faults += 1
        assert set(world.batches.values()) <= {1}
        assert all(count <= 1 + world.faults for count in world.tensors.values())
    world.settle()
    assert world.ended == "complete"
    closed = [number for rounds in world.rounds for number in rounds]
    assert closed == list(range(1, PLAN.rounds + 1))
