"""Who is there, whose greetings wait, and who is drawn for a round."""

from collections import Counter

import pytest

from broker.wire.messages import Hello
from server_node.protocol.presence import Presence, RateLimit, draw_cohort

FLEET = tuple(f"c{n}" for n in range(40))


def test_only_the_will_of_the_present_connection_takes_a_client_away() -> None:
    presence = Presence()
    presence.says_online("a", 5)
    presence.online.update("ab")
    assert not presence.says_offline("a", 4)  # the will of an earlier connection
    assert presence.online == {"a", "b"}
    assert presence.says_offline("a", 5)
    assert presence.online == {"b"}


def test_a_client_that_has_never_spoken_may_go() -> None:
    presence = Presence()
    presence.online.add("a")
    assert presence.says_offline("a", 0)
    assert presence.online == set()


def test_while_a_client_is_to_be_left_alone_its_last_greeting_is_kept() -> None:
    limit = RateLimit()
    assert "a" not in limit
    limit.begin("a")
    assert "a" in limit
    assert "b" not in limit
    for session in (1, 2):
        limit.postpone("a", Hello(session, "same", 9))
    assert limit.end("a") == Hello(2, "same", 9)
    assert "a" not in limit
    assert limit.end("a") is None


def test_the_greeting_of_a_client_that_has_gone_is_forgotten_but_not_that_it_is_left_alone() -> None:
    limit = RateLimit()
    limit.begin("a")
    limit.postpone("a", Hello(1, "same", 9))
    limit.forget_greeting("a")
    limit.forget_greeting("b")
    assert ("a" in limit, "b" in limit) == (True, False)
    assert limit.end("a") is None


def test_a_cohort_hangs_on_seed_and_round_alone() -> None:
    def drawn(online: int, seed: int, number: int) -> list[str]:
        return draw_cohort(FLEET, set(FLEET[:online]), (), 5, seed=seed, number=number)

    # Literal: a run with a seed goes as it went last year.
    assert drawn(40, 1, 1) == ["c20", "c24", "c35", "c37", "c5"]
    assert drawn(8, 1, 1) == ["c0", "c2", "c3", "c5", "c7"]
    # One draw in eight hits: by trial still; one in nine: from a list of the free ones.
    assert draw_cohort(FLEET, set(FLEET[:6]), (), 1, seed=1, number=1) == ["c5"]
    assert draw_cohort(FLEET[:36], set(FLEET[:5]), (), 1, seed=1, number=1) == ["c2"]
    for online in (40, 8):
        assert len({tuple(drawn(online, seed, number)) for seed in (1, 2) for number in (1, 2)}) == 4


# Of forty clients it draws by trial where five more are free than wanted, else from a list of the free ones.
@pytest.mark.parametrize(
    ("online", "at_work", "wanted"),
    [
        pytest.param(40, 0, 5, id="many are free"),
        pytest.param(40, 20, 15, id="five more than wanted"),
        pytest.param(40, 20, 16, id="four more than wanted"),
        pytest.param(8, 2, 6, id="just enough"),
        pytest.param(8, 2, 1, id="one of few"),
    ],
)
def test_only_clients_that_are_online_and_idle_are_drawn_each_once(
    online: int, at_work: int, wanted: int
) -> None:
    for number in range(30):
        drawn = draw_cohort(FLEET, set(FLEET[:online]), FLEET[:at_work], wanted, seed=1, number=number)
        assert drawn == sorted(set(drawn))
        assert len(drawn) == wanted
        assert set(drawn) <= set(FLEET[at_work:online])


def test_all_who_are_free_are_drawn_when_they_are_too_few() -> None:
    at_work = FLEET[3:6]  # the last of them has gone offline
    assert draw_cohort(FLEET, set(FLEET[:5]), at_work, 9, seed=1, number=1) == ["c0", "c1", "c2"]
    assert draw_cohort(FLEET, set(), (), 9, seed=1, number=1) == []


@pytest.mark.parametrize("online", [40, 8])
def test_each_is_as_likely_as_another(online: int) -> None:
    drawn = Counter[str]()
    for number in range(2000):
        drawn.update(draw_cohort(FLEET, set(FLEET[:online]), (), 4, seed=1, number=number))
    expected = 2000 * 4 / online
    assert {client: drawn[client] for client in FLEET[:online]} == pytest.approx(
        dict.fromkeys(FLEET[:online], expected), rel=0.25
    )
