import pytest

from broker.errors import RunError
from broker.wire import topics
from broker.wire.errors import WireError
from broker.wire.topics import TopicParts


def test_topics_are_the_documented_ones() -> None:
    assert topics.state("demo") == "fl/3/demo/state"
    assert topics.down("demo", "pi-1") == "fl/3/demo/d/pi-1"
    assert topics.up("demo", "pi-1") == "fl/3/demo/u/pi-1"
    assert topics.status("demo", "pi-1") == "fl/3/demo/status/pi-1"
    assert topics.client_subscriptions("demo", "pi-1") == ["fl/+/demo/state", "fl/3/demo/d/pi-1"]
    assert topics.client_subscriptions("demo", "pi-1", shows_metric=True) == [
        "fl/+/demo/state",
        "fl/3/demo/d/pi-1",
        "fl/3/demo/watch/metric",
    ]
    assert topics.server_subscriptions("demo") == [
        "fl/3/demo/u/+", "fl/+/demo/status/+", "fl/3/demo/state", "fl/3/demo/server",
    ]  # fmt: skip


def test_topics_are_read_back() -> None:
    assert topics.parse("fl/3/demo/state") == TopicParts(3, "demo", "state", "")
    for kind, make in (("down", topics.down), ("up", topics.up), ("status", topics.status)):
        assert topics.parse(make("demo", "pi-1")) == TopicParts(3, "demo", kind, "pi-1")


def test_pages_for_watching_belong_to_no_client() -> None:
    assert topics.watch("demo", "clients/3") == "fl/3/demo/watch/clients/3"
    for page in ("run", "clients/3", "a/b/c"):
        assert topics.parse(topics.watch("demo", page)) == TopicParts(3, "demo", "watch", "")


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl",
        "fl/3/demo",
        "fl/0/demo/state",
        "fl/x/demo/state",
        "fl/demo/state",
        "fl/3/de mo/state",
        "xx/demo/state",
        "fl/3/demo/state/pi",
        "fl/3/demo/up",
        "fl/3/demo/u/",
        "fl/3/demo/u/a/b",
        "fl/3/demo/u/a+",
        "fl/3/+/u/a",
        "fl/3/demo/watch",
        "fl/3/+/watch/run",
        "fl/3/demo/side/a",
        "xx/demo/u/a",
    ],
)
def test_other_topics_are_refused_by_name(topic: str) -> None:
    with pytest.raises(WireError) as caught:
        topics.parse(topic)
    assert caught.value.reason == "topic"
    assert str(caught.value) == f"topic: {topic!r} is no topic of a run"


def test_a_long_topic_is_not_repeated_in_full() -> None:
    with pytest.raises(WireError) as caught:
        topics.parse("x" * 1000)
    assert str(caught.value) == f"topic: {'x' * 80!r} is no topic of a run"


@pytest.mark.parametrize("name", ["a", "A-Z_09", "x" * 32])
def test_names_may_have_letters_digits_and_two_signs(name: str) -> None:
    assert topics.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 33, "a b", "a/b", "a+", "#", "\N{LATIN SMALL LETTER E WITH ACUTE}"]
)
def test_other_names_are_refused_with_the_rule(name: str) -> None:
    with pytest.raises(RunError) as caught:
        topics.check_name(name)
    rule = "cannot be a run or client name: use 1 to 32 of A-Z a-z 0-9 _ -"
    assert str(caught.value) == f"{name!r} {rule}"
