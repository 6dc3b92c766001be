"""Makes the pages of a board: a bounded number of them, each of bounded size."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from broker.wire.metric_page import PAGE, MetricPage
from server_node.board.board import Board
from server_node.board.pages import (
    CLIENTS_A_PAGE,
    MAX_CLIENTS,
    MAX_MEMBERS,
    MAX_POINTS,
    ClientLine,
    ClientsPage,
    EventLine,
    EventsPage,
    HistoryPage,
    Page,
    RoundPage,
    RunPage,
    Slowest,
    clean,
)
from server_node.protocol.exchange import Turn
from server_node.summary import Better, best_of, wire_bytes_in
from server_node.vocabulary.ledger import DOWN, UP, Ledger
from server_node.vocabulary.plan import Plan


@dataclass(frozen=True, slots=True)
class View:
    """Everything that is shown, at one moment.

    Attributes:
        at: the moment, in seconds of the Unix epoch.
        metric: of the last evaluation; None: there was none.
        clients: by the number of their page.
    """

    at: float
    run: RunPage
    metric: MetricPage | None
    round: RoundPage
    history: HistoryPage
    events: EventsPage
    clients: Mapping[int, ClientsPage]

    def named(self) -> Iterator[tuple[str, Page]]:
        """Give each page with its name, the levels of its topic after `watch`."""
        yield from (("run", self.run), ("events", self.events), ("round", self.round))
        if self.metric is not None:
            yield PAGE, self.metric
        yield "history", self.history
        yield from ((f"clients/{number}", page) for number, page in self.clients.items())


class Views:
    """Makes views of a run.

    Args:
        board: what is known of it.
        plan: see Plan.
        ledger: of the run.
        rows: one a round, as in metrics.parquet; the list of the run's record, which grows.
        metric: name of the task's metric.
        better: which values of it are better.
        epoch_s: seconds since the Unix epoch at the board's time 0.
    """

    def __init__(
        self,
        board: Board,
        plan: Plan,
        ledger: Ledger,
        rows: Sequence[Mapping[str, Any]],
        *,
        metric: str,
        better: Better = "higher",
        epoch_s: float,
    ) -> None:
        self._board = board
        self._plan = plan
        self._ledger = ledger
        self._rows = rows
        self._metric = clean(metric, 24)
        self._better = better
        self._epoch_s = epoch_s
        self._names = plan.clients[:MAX_CLIENTS]
        self._place = {name: number for number, name in enumerate(self._names)}
        self._clients: dict[int, ClientsPage] = {}
        self._evaluated: list[tuple[int, float]] = []
        self._rows_read = self._steps = 0
        self._run: RunPage | None = None

    def view(self, now_s: float, watch_bytes: int = 0) -> View:
        """Give everything that is shown at a time by the board's clock.

        Args:
            now_s: the time.
            watch_bytes: bytes of the packets that carried pages so far.
        """
        self._read_rows()
        self._make_client_pages()
        run = self._run_page(watch_bytes)
        return View(
            self._epoch_s + now_s,
            run,
            self._metric_page(run),
            self._round_page(),
            self._history(),
            EventsPage([EventLine(self._at(e.at_s), e.kind, e.client, e.what) for e in self._board.recent()]),
            dict(self._clients),
        )

    def _at(self, time_s: float) -> float:
        return round(self._epoch_s + time_s, 1)

    def _read_rows(self) -> None:
        for row in itertools.islice(self._rows, self._rows_read, None):
            if row["metric"] is not None and math.isfinite(row["metric"]):
                self._evaluated.append((row["round"], round(row["metric"], 5)))
            self._steps += row["client_steps"]
        self._rows_read = len(self._rows)

    def _make_client_pages(self) -> None:
        changed = {self._place[name] // CLIENTS_A_PAGE for name in self._board.changed if name in self._place}
        self._board.changed.clear()
        for number in sorted(changed):
            names = self._names[number * CLIENTS_A_PAGE : (number + 1) * CLIENTS_A_PAGE]
            self._clients[number] = ClientsPage([self._line(name) for name in names])

    def _line(self, name: str) -> ClientLine:
        record = self._board.records[name]
        return ClientLine(
            client=name,
            status=record.status,
            device=clean(record.device, 24),
            link=clean(record.link, 24),
            seen=None if record.seen_s is None else int(self._epoch_s + record.seen_s),
            samples=record.samples,
            batches=record.batches,
            refused=self._ledger.refusals.get(name, 0),
            answer_s=round(record.answers_s / record.answers, 3) if record.answers else None,
        )

    def _run_page(self, watch_bytes: int) -> RunPage:
        last = self._rows[-1] if self._rows else None
        scores = [score for _, score in self._evaluated]
        phase = self._board.state.phase
        assert phase != "away", "only the broker says that"
        page = RunPage(
            run=self._plan.run,
            phase=phase,
            reason=clean(self._board.state.reason, 80),
            round=max(self._board.round, len(self._rows)),
            rounds=self._plan.rounds,
            metric_name=self._metric,
            metric=scores[-1] if scores else None,
            best=best_of(scores, self._better),
            loss=None if last is None or not math.isfinite(last["loss"]) else round(last["loss"], 5),
            online=len(self._board.core.online),
            clients=len(self._plan.clients),
            elapsed_s=0.0 if last is None else round(last["elapsed_s"], 2),
            steps=self._steps,
            wire_bytes={name: flow.wire_bytes for name, flow in self._ledger.flows.items()},
            watch_bytes=watch_bytes,
            rejected=sum(self._ledger.rejected.values()),
            duplicates=self._ledger.duplicates,
            late=self._ledger.discarded_late,
            slowest=self._slowest(),
        )
        # That pages were published is no reason to publish one.
        if self._run is None or page != msgspec.structs.replace(self._run, watch_bytes=watch_bytes):
            self._run = page
        return self._run

    def _metric_page(self, run: RunPage) -> MetricPage | None:
        if run.metric is None or run.best is None:
            return None
        return MetricPage(self._evaluated[-1][0], run.metric_name, run.metric, run.best)

    def _slowest(self) -> Slowest | None:
        records = self._board.records
        waited_for = [
            (track.marks_s[-1], name)
            for name in self._board.core.members
            if (track := records[name].track) is not None and track.turn is Turn.CLIENT
        ]
        if not waited_for:
            return None
        since_s, name = min(waited_for)
        return Slowest(name, self._at(since_s), records[name].why)

    def _round_page(self) -> RoundPage:
        board = self._board
        tracks = {name: track for name in board.core.members if (track := board.records[name].track)}

        def is_later(name: str) -> tuple[bool, float]:
            return tracks[name].turn is not Turn.CLIENT, tracks[name].marks_s[-1]

        shown = sorted(sorted(tracks, key=is_later)[:MAX_MEMBERS])
        return RoundPage(
            round=board.round,
            began=round(self._epoch_s + board.began_s, 2) if board.round else 0.0,
            steps=self._plan.steps_in(board.round),
            members=[tracks[name].member(name, board.began_s) for name in shown],
            more=len(tracks) - len(shown),
        )

    def _history(self) -> HistoryPage:
        traffic = [
            (
                row["round"],
                round(row["elapsed_s"], 2),
                wire_bytes_in(row, UP),
                wire_bytes_in(row, DOWN),
            )
            for row in thinned(self._rows)
        ]
        return HistoryPage(thinned(self._evaluated), traffic)


def thinned(points: Sequence[Any]) -> list[Any]:
    """Take every so manieth point, and the last; from one call to the next mostly the same ones."""
    stride = 1
    while math.ceil(len(points) / stride) >= MAX_POINTS:
        stride *= 2
    taken = list(points[::stride])
    return [*taken, points[-1]] if points and (len(points) - 1) % stride else taken
