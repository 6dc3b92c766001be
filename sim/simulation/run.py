"""Runs a scenario in virtual time, from where its folder stands to its end, and leaves the folder."""

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

from broker.exits import STOPPED
from broker.files import writing
from broker.stopping import Stop
from scenarios.errors import MissingDataError
from scenarios.loading.rehearsal import rehearse
from scenarios.metrics import better_of
from scenarios.schema.scenario import Scenario, client_names
from scenarios.tasks import task_of
from server_node import checkpoint
from server_node.checkpoint import tensors_of
from server_node.observer import observer, silent_observer
from server_node.ownership import alone_in
from server_node.record import RunFolder
from server_node.saver import Pace
from server_node.summary import Summary
from server_node.trackers.events import Tell, ended, silence
from server_node.vocabulary.ledger import Ledger
from server_node.vocabulary.reports import Fact, RoundReport, Watch, Working
from sim.chrome_trace import Trace
from sim.network.clock import Clock
from sim.network.csv_inputs import check_csv_inputs
from sim.simulation import workers
from sim.simulation.devices import kinds_of
from sim.simulation.moment import Standing, standing_of
from sim.simulation.recorder import Recorder
from sim.simulation.saving import Saving
from sim.simulation.virtual_run import VirtualRun

log = logging.getLogger(__name__)

LARGE_FLEET = 10_000
"""From so many devices on it is told what takes long beside the rounds."""


def simulate(
    scenario: Scenario,
    folder: Path,
    *,
    timing_only: bool = False,
    threads: int | None = None,
    watch: Watch = lambda _fact, _ledger: None,
    stop: Stop | None = None,
    fresh: bool = False,
    pace: Pace | None = None,
    tell: Tell = silence,
) -> Summary:
    """Run a scenario in virtual time and leave its folder; go on from the folder's newest good checkpoint.

    The same scenario gives the same metrics and trace, to the byte, on the same machine and versions, also if
    it was stopped or killed on the way. A run that is over is not touched.

    Args:
        scenario: what to run.
        folder: where results go.
        timing_only: train nothing; messages have their sizes, jobs their durations.
        threads: so many devices train at the same time, the cores' number if None; the results are the same.
        watch: hears of rounds and of trouble as they happen.
        stop: ends the run early, cleanly, between two events; the summary's reason is then "stopped".
        fresh: begin anew, over what the folder has.
        pace: how often a run that trains is saved.
        tell: hears what trackers are told.

    Returns:
        The content of summary.json.

    Raises:
        ScenarioError: data or trace files that cannot be used.
        RunError: the folder cannot be written to, is another process's, or has what cannot be gone on from.
    """
    task, stop = task_of(scenario), stop or Stop()
    check_csv_inputs(scenario)
    with suppress(MissingDataError) if timing_only else nullcontext():
        rehearse(scenario, task)
    with alone_in(folder):
        standing = Standing() if fresh else standing_of(scenario, folder, timing_only=timing_only)
        if standing.finished is not None:
            return standing.finished[0]
        if fresh:
            checkpoint.remove(folder)
        moment = standing.moment
        clock, ledger = Clock(), Ledger()
        trace = Trace(client_names(scenario), kinds_of(scenario))
        record = RunFolder(
            folder, scenario, mode="simulate", metric=task.metric, ledger=ledger, clock=lambda: clock.now
        )
        record.better = better_of(task)
        record.damaged = standing.damaged
        for what in standing.damaged:
            log.warning("%s; going on from the one before", what)
        recorder = Recorder(moment.log, moment.tensors) if moment else Recorder()
        jobs = (
            workers.stand_ins(scenario, task)
            if timing_only
            else workers.training(scenario, task, recorder, threads)
        )

        def working(what: str, done: int = 0, of: int = 0) -> bool:
            if scenario.fleet_size >= LARGE_FLEET:
                watch(Working(what, done, of), ledger)
            return not stop.asked

        def report(fact: Fact) -> None:
            hears(fact)
            if isinstance(fact, RoundReport) and fact.round == scenario.training.rounds:
                working("telling all devices that the run is over")

        hears = observer(record, ledger, watch, tell)

        with _collector_off() if timing_only else nullcontext():
            with jobs as who:
                run = VirtualRun(
                    scenario,
                    who,
                    clock=clock,
                    ledger=ledger,
                    trace=trace,
                    report=report,
                    remember=silent_observer(record),
                    working=working,
                )
                record.measures = run.energy.so_far
                record.links = lambda: run.link_bytes
                saving = None if who.learners is None else Saving(scenario, run, who.learners, record, pace)
                if saving is not None and moment is not None:
                    saving.go_on(moment)
                tell(record.began(scenario.name))
                reason = run.to_its_end(stop, None if saving is None else saving.between)
            working("writing the run folder")
            network = asdict(run.network_stats)
            with writing(folder):
                trace.write(folder / "trace.json")
            tensors = None if who.learners is None else tensors_of(*who.learners.model)
            summary = record.finish(reason, tensors, network=network, energy=run.energy.summary())
            if reason != STOPPED:
                checkpoint.remove(folder)  # nothing is left to go on with
            tell(ended(reason, summary))
            return summary


@contextmanager
def _collector_off() -> Iterator[None]:
    """Let Python look for no cycles of garbage: in 100,000 devices that takes seconds, and they leave none.

    Training does leave some (torch, a user's task), so this is for timing-only.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
