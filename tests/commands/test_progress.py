"""What is seen of a run or a sweep while it goes on: on a narrow terminal, and where there is none."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from broker.cli import screen
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Gathering, RoundReport, Working
from sim.commands import progress


def round_report(number: int) -> RoundReport:
    return RoundReport(
        number, 1.0, 0.5, clients=3, client_steps=3, quantization_error=0.0, staleness=0.0, online=8
    )


def test_off_a_terminal_a_line_comes_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.watching_run(rounds=50, clients=8, metric="accuracy", as_json=False) as watch:
        for number in range(1, 31):
            now[0] += 1.0
            watch(round_report(number), Ledger())
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        [f"round {number} of 50", "accuracy 0.500"] for number in (10, 20, 30)
    ]


def test_off_a_terminal_a_large_fleet_is_seen_to_gather(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.watching_run(rounds=50, clients=25_000, metric="accuracy", as_json=False) as watch:
        for online in range(1, 25_001):
            now[0] += 2.0**-10  # nothing is rounded
            watch(Gathering(online), Ledger())
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"{online} of 25000 clients online" for online in (10_240, 20_480)]


def test_a_bar_shows_in_steps_how_a_large_fleet_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[str]()

    @contextmanager
    def bar(*_: object) -> Iterator[tuple[Console, Callable[..., None]]]:
        yield Console(file=io.StringIO(), force_terminal=True), lambda **to: shown.append(to["description"])

    monkeypatch.setattr(progress, "progress_bar", bar)
    for clients, steps in ((7, 7), (25_000, 962)):
        with progress.watching_run(rounds=50, clients=clients, metric="accuracy", as_json=False) as watch:
            for online in range(1, clients + 1):
                watch(Gathering(online), Ledger())
        assert len(shown) == steps
        assert shown[-1] == f"{clients} of {clients} clients online"
        shown.clear()


def test_what_takes_long_beside_the_rounds_is_told_with_how_much_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with progress.watching_run(rounds=5, clients=25_000, metric="accuracy", as_json=False) as watch:
        for fact in (Working("devices made:", 3_000, 25_000), Working("events:", 65_536), Working("writing")):
            now[0] += 11.0
            watch(fact, Ledger())
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["devices made: 3,000 of 25,000", "events: 65,536", "writing"]


def test_a_sweep_tells_each_point(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.watching_sweep(2, as_json=False) as watch:
        watch({"run": "a", "error": None, "metric.final": 0.25, "metric.name": "accuracy"})
        watch({"run": "b", "error": "oh"})
    assert capsys.readouterr().err.splitlines() == ["1 of 2  a: accuracy 0.250", "2 of 2  b: failed"]


def test_a_narrow_terminal_shows_round_time_left_and_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = io.StringIO()
    made = Console(file=seen, force_terminal=True, width=40, color_system=None)
    monkeypatch.setattr(screen, "Console", lambda **_: made)
    with progress.watching_run(rounds=50, clients=8, metric="accuracy", as_json=False) as watch:
        watch(round_report(7), Ledger())
    last = [line for line in seen.getvalue().replace("\r", "\n").splitlines() if "accuracy" in line][-1]
    assert "7/50" in last
    assert "-:--:--" in last or "0:" in last
    assert last.index("7/50") < last.index("accuracy 0.5")
