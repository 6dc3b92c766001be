"""State machines that have heard and said the same share one state, and go on alike."""

from hypothesis import given
from hypothesis import strategies as st

from broker.machine.actions import ComputeDone, Online, Publish, Received
from broker.wire.messages import Activations, Ask, Assignment, Gradient, HeadUpdate, Hello, Message, RunState
from edge_client.actions import ClientAction
from edge_client.core import ClientCore
from edge_client.jobs import FirstBatch
from sim.simulation.ahead.states import become, state_of
from sim.simulation.ahead.talk import job_of

SAID = st.one_of(
    st.builds(Assignment, st.integers(1, 2), st.integers(1, 3), st.just(1), st.just(2), st.just(0.1)),
    st.builds(Gradient, st.integers(1, 2), st.integers(1, 3), st.integers(0, 1), st.just(1), st.just(0.0)),
    st.builds(Ask, st.integers(1, 2), st.just(1), st.integers(1, 3), st.integers(0, 2), st.booleans()),
    st.builds(
        RunState,
        st.sampled_from(("gathering", "running", "paused", "away")),
        st.integers(1, 2),
        st.just(7),
        st.just(0),
        st.just(3),
    ),
)


def client(name: str) -> ClientCore:
    return ClientCore("run", name, Hello(0, "digest", 5))


def hears(core: ClientCore, message: Message) -> list[ClientAction]:
    """Let a client hear a message, and do its job if there is one; give what it says."""
    actions = core.handle(Received("", message, 9), 0.0)
    job = job_of(actions)
    if job is None:
        return actions
    if isinstance(job, FirstBatch):
        given_back = job.assignment.server, job.assignment.round
        return core.handle(ComputeDone(job, Activations(*given_back, 0, 1, 5, b"z", b"y")), 0.0)
    return core.handle(ComputeDone(job, HeadUpdate(1, 1, 1, 5, 0.0, b"head")), 0.0)


def of_another(actions: list[ClientAction]) -> list[ClientAction]:
    """Give what the client "c2" would say where "c1" says this."""
    return [
        Publish(each.topic.replace("/c1", "/c2"), each.message, each.retain)
        if isinstance(each, Publish)
        else each
        for each in actions
    ]


@given(before=st.lists(SAID, max_size=6), after=st.lists(SAID, min_size=1, max_size=6))
def test_a_state_machine_goes_on_as_another_would_whose_state_it_has(
    before: list[Message], after: list[Message]
) -> None:
    one, other = client("c1"), client("c2")
    one.handle(Online(1), 0.0)
    for message in before:
        hears(one, message)
    become(other, state_of(one))
    for message in after:
        assert hears(other, message) == of_another(hears(one, message))
    assert state_of(other) == state_of(one)
    assert other.session == 1
