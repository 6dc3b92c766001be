"""What a server makes of a client's software: scenario, code of the task, versions."""

from dataclasses import replace

import pytest

from broker.machine.actions import Online, Publish, Report, TimerFired, Undecodable
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.messages import Hello, Rejected, RunScenario, RunState
from server_node.vocabulary.actions import ServerAction
from server_node.vocabulary.reports import Gathering, Noticed, Refused
from tests.protocol.test_server_core import PLAN, Server, said

WITH_CODE = replace(PLAN, model="aaaa-bbbb", package="0.2.0")


def greeting(model: str = "aaaa-bbbb", package: str = "0.2.0") -> Hello:
    return Hello(1, "same", 9, package=package, model=model)


def facts(actions: list[ServerAction]) -> list[object]:
    return [action.fact for action in actions if isinstance(action, Report)]


@pytest.fixture
def server() -> Server:
    """A server that waits for its fleet."""
    server = Server(WITH_CODE)
    server.handle(Online())
    server.work()
    return server


def test_the_same_code_is_welcome(server: Server) -> None:
    assert facts(server.hear("a", greeting())) == [Gathering(1)]


@pytest.mark.parametrize(
    ("model", "differs"),
    [
        ("aaaa-0000", "the source of the task: 0000 on the device, bbbb on the server"),
        (
            "0000-bbbb",
            "the parameters of the model (names, shapes, dtypes): 0000 on the device, aaaa on the server",
        ),
    ],
)
def test_other_code_is_refused_and_both_sides_hear_what_differs(
    server: Server, model: str, differs: str
) -> None:
    actions = server.hear("a", greeting(model, "0.3.0"))
    why = f"model: the code of the task differs in {differs}"
    why += "; the package: 0.3.0 on the device, 0.2.0 on the server"
    assert facts(actions) == [Refused("a", why)]
    assert said(actions) == [("a", Rejected("model", why))]
    assert server.ledger.rejected == {"model": 1}


def test_a_client_that_has_no_code_of_the_task_is_welcome(server: Server) -> None:
    assert facts(server.hear("a", greeting(model=""))) == [Gathering(1)]


def test_another_package_with_the_same_code_is_noticed_once(server: Server) -> None:
    noticed = Noticed("a", "has version 0.3.0 of the package, the server 0.2.0")
    assert facts(server.hear("a", greeting(package="0.3.0"))) == [Gathering(1), noticed]
    server.handle(TimerFired("quiet:a"))
    assert facts(server.hear("a", greeting(package="0.3.0"))) == []


def test_a_client_of_another_version_is_told_of_once_and_gets_no_answer(server: Server) -> None:
    error = WireError("version", "a speaks protocol 3, this side 2: update one of them")
    assert server.handle(Undecodable("a", error, 10)) == [Report(Refused("a", str(error)))]
    assert server.handle(Undecodable("a", error, 10)) == []
    assert server.ledger.rejected == {"version": 2}


def test_the_scenario_is_published_by_a_server_in_charge_and_after_each_lost_connection() -> None:
    server = Server(replace(PLAN, scenario=b"packed"))
    scenario = Publish(topics.scenario("r"), RunScenario(b"packed", PLAN.model), retain=True)
    first = [action for action in server.handle(Online()) if isinstance(action, Publish)]
    assert first[0] == scenario
    assert isinstance(first[1].message, RunState)
    assert scenario in server.handle(Online())


def test_a_simulated_server_publishes_no_scenario() -> None:
    server = Server()
    assert not any(isinstance(message, RunScenario) for _, message in said(server.handle(Online())))
