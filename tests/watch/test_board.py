"""What a server shows of its run is what its state machine knows, whatever happens, and changes nothing."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.exits import SUPERSEDED
from broker.machine.actions import Done, Publish, Received, Report, StopAsked
from broker.wire.errors import WireError
from broker.wire.messages import Hello, Message, Progress, RunState, Standing, Status
from server_node.board.board import Board
from server_node.board.pages import (
    MAX_CLIENTS,
    MAX_PAGE_BYTES,
    MAX_POINTS,
    ClientLine,
    clean,
    decode,
    encode,
)
from server_node.board.views import View, Views, thinned
from server_node.board.words import run_line
from server_node.protocol.core import ServerCore
from server_node.vocabulary.actions import ServerAction, ServerEvent
from server_node.vocabulary.ledger import CONTROL, FLOWS, Ledger
from server_node.vocabulary.plan import Plan
from server_node.vocabulary.reports import Dropped, Noticed, Refused
from tests.protocol.test_any_schedule import FAULTS, POLICIES, events, time_passes
from tests.protocol.world import FLEET, PLAN, Server, World

EPOCH_S = 1_790_000_000.0


class SeenCore(Board):
    """A board that can be asked for everything that the state machine below it has."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)


def row(number: int, **changes: Any) -> dict[str, Any]:
    flows = {f"{name}_wire_bytes": 1000 * number for name in (*FLOWS, CONTROL)}
    return {
        "round": number,
        "loss": 0.5,
        "metric": None,
        "elapsed_s": 1.5 * number,
        "client_steps": 4,
        **flows,
        **changes,
    }


class SeenWorld(World):
    """A world whose servers are watched; what is shown is held against what is known after each event."""

    def start_server(self, *, takeover: bool = False) -> None:
        incarnation, token = len(self.servers) + 1, next(self._tokens)
        plan = replace(self.plan, incarnation=incarnation, token=token, takeover=takeover)
        ledger = Ledger()
        core: Any = SeenCore(ServerCore(plan, ledger, self.rounds_done), plan, ledger, {})
        core.views = Views(core, plan, ledger, [], metric="m", epoch_s=EPOCH_S)
        self.servers.append(Server(core, rounds_before=self.rounds_done))
        self.connect_server(self.server)

    def feed_server(self, server: Server, event: ServerEvent) -> None:
        super().feed_server(server, event)
        board: Any = server.core
        for name, record in board.records.items():
            assert record.is_online == (name in board.core.online), name
            member = board.core.members.get(name)
            assert (member is None) == (record.track is None), name
            if member is not None and record.track is not None:
                shown = (record.track.round, record.track.step, record.track.turn)
                assert shown == (member.assignment.round, member.step, member.turn), name
                assert record.track.marks_s == sorted(record.track.marks_s)
        view: View = board.views.view(self.now_s)
        assert view.run.online == sum(line.status not in ("unknown", "offline") for line in lines(view))
        for name, page in view.named():
            assert decode(name, encode(page)) == page


def lines(view: View) -> list[ClientLine]:
    return [line for _, page in sorted(view.clients.items()) for line in page.clients]


def play(world: World, seed: int) -> World:
    rng = random.Random(seed)
    for _ in range(rng.randint(1, 40)):
        if world.ended is None:
            rng.choice([events, events, events, time_passes, rng.choice(FAULTS)])(world, rng)
    world.settle()
    return world


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), policy=st.sampled_from(sorted(POLICIES)), rivals=st.booleans())
@example(seed=65, policy="buffered", rivals=False)  # a server is killed before the end of the run was said
def test_it_shows_what_the_state_machine_knows_and_changes_nothing(
    seed: int, policy: str, *, rivals: bool
) -> None:
    plan = replace(PLAN, round_policy=POLICIES[policy])
    seen, unseen = (play(kind(plan, has_rivals=rivals), seed) for kind in (SeenWorld, World))
    assert (seen.said, seen.tensors, seen.batches) == (unseen.said, unseen.tensors, unseen.batches)
    assert [server.core._ledger for server in seen.servers] == [
        server.core._ledger for server in unseen.servers
    ]
    if not rivals:
        newest: Any = seen.server.core
        assert newest.may_publish
        last: Any = [each for each in seen.servers if each.rounds_before < plan.rounds][-1].core
        assert sum(line.batches for line in lines(last.views.view(seen.now_s))) >= 1


# one client's story, told by a state machine that says what the test wants


class Told:
    """A state machine that gives the actions it is told to."""

    def __init__(self) -> None:
        self.online: set[str] = set()
        self.members: dict[str, Any] = {}
        self.actions: list[ServerAction] = []

    def handle(self, _event: ServerEvent, _now_s: float) -> list[ServerAction]:
        actions, self.actions = self.actions, []
        return actions


class Story:
    def __init__(self, plan: Plan = PLAN, labels: dict[str, tuple[str, str]] | None = None) -> None:
        self.core, self.ledger, self.rows = Told(), Ledger(), list[dict[str, Any]]()
        self.board = Board(self.core, plan, self.ledger, labels or {})
        self.views = Views(self.board, plan, self.ledger, self.rows, metric="accuracy", epoch_s=EPOCH_S)

    def hears(self, sender: str, message: Message, at_s: float, *actions: ServerAction) -> None:
        self.core.actions = list(actions)
        self.board.handle(Received(sender, message, 10), at_s)

    def says(self, *actions: ServerAction, at_s: float = 0.0) -> None:
        self.core.actions = list(actions)
        self.board.handle(StopAsked(""), at_s)

    def line(self, client: str, at_s: float) -> ClientLine:
        (found,) = (line for line in lines(self.views.view(at_s)) if line.client == client)
        return found

    def told(self) -> list[tuple[str, str, str]]:
        return [(happening.kind, happening.client, happening.what) for happening in self.board.recent()]


def state(phase: Any, reason: str = "") -> Publish:
    return Publish("fl/3/r/state", RunState(phase, 1, reason=reason), retain=True)


def test_who_comes_goes_and_comes_back_is_told() -> None:
    story = Story(labels={"a": ("pi-4", "lte")})
    story.core.online.add("a")
    story.hears("a", Hello(1, "same", 400), 2.0)
    assert story.line("a", 2.0) == ClientLine("a", "idle", "pi-4", "lte", 1_790_000_002, 400, 0, 0, None)
    story.core.online.discard("a")
    story.hears("a", Status(online=False, session=1), 9.0)
    assert (story.line("a", 9.0).status, story.line("a", 9.0).seen) == ("offline", 1_790_000_002)
    story.core.online.add("a")
    story.hears("a", Hello(2, "same", 400), 12.5)
    assert story.told() == [
        ("joined", "a", "is here with 400 samples"),
        ("lost", "a", "has gone"),
        ("back", "a", "is back after 3.5 s"),
    ]
    assert [happening.what for happening in story.board.take_unread()] == [
        what for _, _, what in story.told()
    ]
    assert story.board.take_unread() == []
    assert story.line("b", 13.0).status == "unknown"


def test_refusals_notes_and_drops_are_told_and_the_log_hears_of_them_elsewhere() -> None:
    story = Story()
    story.says(
        Report(Refused("b", "order: too early")), Report(Noticed("a", "is old")), Report(Dropped(7, "c"))
    )
    assert set(story.told()) == {
        ("refused", "b", "order: too early"),
        ("note", "a", "is old"),
        ("late", "c", "round 7 goes on without it"),
    }
    assert story.board.take_unread() == []


class Discarding(Told):
    """One to which everything comes too late."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    def handle(self, _event: ServerEvent, _now_s: float) -> list[ServerAction]:
        self.ledger.discarded_late += 1
        return []


def test_an_answer_that_is_late_is_told() -> None:
    story = Story()
    story.board.core = Discarding(story.ledger)
    story.hears("a", Progress(1, 0, 0, 0, Standing.WORKING), 1.0)
    assert story.told() == [("late", "a", "an answer came after its round")]


def test_nothing_is_published_before_the_server_is_in_charge_nor_after_another_has_taken_over() -> None:
    story = Story()
    may_publish = [story.board.may_publish]
    for actions in ([state("gathering")], [Done(SUPERSEDED)]):
        story.says(*actions)
        may_publish.append(story.board.may_publish)
    assert may_publish == [False, True, False]


def test_a_run_that_ends_says_why() -> None:
    story = Story()
    story.says(state("running"), at_s=1.0)
    story.says(state("finished", "complete"), Done("complete"), at_s=2.0)
    run = story.views.view(3.0).run
    assert (run.phase, run.reason) == ("finished", "complete")
    assert story.told() == [("run", "", "running"), ("run", "", "finished: complete")]
    assert story.board.may_publish


def test_a_flood_of_one_kind_leaves_the_others_their_room() -> None:
    story = Story()
    story.core.online.add("a")
    story.hears("a", Hello(1, "same", 400), 1.0)
    flood: list[ServerAction] = [Report(Refused("b", f"bad {number}")) for number in range(1000)]
    story.says(*flood, at_s=2.0)
    kinds = [kind for kind, _, _ in story.told()]
    assert kinds.count("joined") == 1
    assert kinds.count("refused") == 5


def test_figures_and_curves_come_from_the_runs_record() -> None:
    story = Story()
    story.rows += [
        row(1),
        row(2, metric=0.25),
        row(3, metric=float("nan"), loss=float("nan")),
        row(4, metric=0.2),
    ]
    view = story.views.view(0.0)
    assert (view.run.metric, view.run.best, view.run.loss, view.run.steps) == (0.2, 0.25, 0.5, 16)
    assert view.history.metric == [(2, 0.25), (4, 0.2)]
    assert view.history.traffic[-1] == (4, 6.0, 8000, 8000)
    story.rows.append(row(5, loss=float("nan")))
    assert story.views.view(0.0).run.loss is None
    assert story.views.view(0.0).run.steps == 20


def test_where_nothing_happens_there_is_nothing_new_to_publish() -> None:
    story = Story()
    story.says(state("gathering"))
    first = [encode(page) for _, page in story.views.view(1.0, watch_bytes=10).named()]
    assert [encode(page) for _, page in story.views.view(2.0, watch_bytes=5000).named()] == first
    story.core.online.add("a")
    story.hears("a", Hello(1, "same", 1), 3.0)
    assert story.views.view(3.0, watch_bytes=6000).run.watch_bytes == 6000


@given(st.integers(0, 5000))
def test_a_curve_has_few_points_its_first_and_its_last(size: int) -> None:
    points = thinned(range(size))
    assert len(points) <= MAX_POINTS
    assert points == sorted(set(points))
    assert points[:1] == list(range(size))[:1]
    assert points[-1:] == list(range(size))[-1:]
    assert len(points) >= min(size, MAX_POINTS // 2 - 1)


def test_the_slowest_is_told_with_what_it_said_last() -> None:
    world = SeenWorld()
    while not any(client.job for client in world.clients.values()):
        world.do(next(what for what in world.busy() if not what.startswith("work")))
    board: Any = world.server.core
    slow = next(iter(board.core.members))
    world.now_s += 5.0
    for standing, why in ((Standing.WORKING, "computing"), (Standing.ANSWERED, "answer under way")):
        world.feed_server(world.server, Received(slow, Progress(1, 0, 1, 0, standing), 1))
        view = board.views.view(world.now_s)
        assert board.records[slow].why == why
        assert view.run.slowest is not None
    assert "slowest" in run_line(view.run, view.at)
    world.lose_client(slow)
    while "hear 0" in list(world.busy()):
        world.do("hear 0")
    assert board.records[slow].why == "offline"


# bounds


@given(st.text(), st.integers(0, 100))
def test_text_from_outside_is_cut_and_needs_no_escape(text: str, most: int) -> None:
    cleaned = clean(text, most)
    assert len(cleaned.encode()) <= most
    assert cleaned.isprintable()
    assert not set('"\\') & set(cleaned)
    assert clean(cleaned, most) == cleaned


@settings(max_examples=20)
@given(st.lists(st.text(min_size=80, max_size=120), min_size=30, max_size=30), st.text(max_size=60))
def test_every_page_fits_the_smallest_packet(texts: list[str], label: str) -> None:
    fleet = tuple(f"{number:032d}" for number in range(40))
    plan = replace(PLAN, run="r" * 32, clients=fleet, rounds=2**31 - 1)
    story = Story(plan, dict.fromkeys(fleet, (label or "\N{SNOWMAN}" * 40, '\\"' * 40)))
    for number, text in enumerate(texts):
        story.says(Report(Refused(fleet[number], text)), Report(Noticed(fleet[number], text)))
        story.says(Report(Dropped(2**31 - 1, fleet[number])), state("paused", text))
        story.core.online.add(fleet[number])
        story.hears(fleet[number], Hello(1, "same", 2**31 - 1), 1e6)
        story.ledger.refusals[fleet[number]] = 2**53
        record = story.board.records[fleet[number]]
        record.batches, record.answers, record.answers_s = 2**53, 3, 1e6
    story.rows += [
        row(2**31 - 1000 + n, metric=-12345.678901, elapsed_s=1e8 / 3, loss=1e300) for n in range(1000)
    ]
    for each in story.rows:
        each |= {f"{name}_wire_bytes": 2**51 for name in FLOWS}
    for name, page in story.views.view(1e6).named():
        assert len(encode(page)) <= MAX_PAGE_BYTES, name
        assert decode(name, encode(page)) == page


def test_the_page_of_a_round_fits_with_the_longest_names_and_most_turns() -> None:
    fleet = tuple(f"{number:032d}" for number in range(60))
    world = SeenWorld(
        replace(PLAN, clients=fleet, cohort=50, steps=40, round_policy=replace(PLAN.round_policy, choose=50))
    )
    board: Any = world.server.core
    sizes, most = [], 0
    for _ in range(1200):
        what = next(iter(sorted(world.busy(), key=lambda each: (each.startswith("compute"), each))), None)
        if what is None:
            break
        world.now_s += 997.13
        world.do(what)
        page = board.views.view(world.now_s).round
        sizes.append(len(encode(page)))
        most = max(most, page.more)
    assert most > 30
    assert max(sizes) <= MAX_PAGE_BYTES


def test_of_a_huge_fleet_so_many_are_shown_one_by_one() -> None:
    fleet = tuple(f"c{number:05d}" for number in range(MAX_CLIENTS + 500))
    story = Story(replace(PLAN, clients=fleet))
    story.hears(fleet[-1], Hello(1, "same", 1), 1.0)
    view = story.views.view(1.0)
    assert [line.client for line in lines(view)] == list(fleet[:MAX_CLIENTS])
    assert view.run.clients == MAX_CLIENTS + 500
    assert len(list(view.named())) == 104


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run", b"{}"),
        ("run", b"\xff"),
        ("runs", b"{}"),
        ("clients", b'{"clients":[]}'),
        ("clients/x", b'{"clients":[]}'),
        ("clients/00000", b'{"clients":[]}'),
        ("clients/0/1", b'{"clients":[]}'),
        ("events", b'{"events":[{"at":1,"kind":"joined","client":"' + b"x" * 33 + b'","what":""}]}'),
        ("events", b'{"events":[' + b" " * MAX_PAGE_BYTES + b"]}"),
        ("history", b'{"metric":[[1,"x"]],"traffic":[]}'),
        ("history", b"[" * 4000),
    ],
)
def test_what_is_no_page_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(WireError) as caught:
        decode(name, content)
    assert caught.value.reason == "watch"


def test_a_page_with_more_fields_is_read() -> None:
    assert decode("clients/0", b'{"clients":[],"new":{"a":[1]}}') == decode("clients/0", b'{"clients":[]}')


def test_an_unknown_sender_takes_no_memory() -> None:
    story = Story()
    for number in range(100):
        story.hears(f"stranger{number}", Hello(1, "same", 1), 1.0)
    assert set(story.board.records) == set(FLEET)
