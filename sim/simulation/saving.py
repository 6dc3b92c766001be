"""Saves a simulated run while it trains, and goes on with one that was saved."""

from broker.errors import CannotGoOnError
from scenarios.schema.scenario import Scenario
from server_node.record import RunFolder
from server_node.saver import Pace
from sim.simulation.moment import Moment, Simulated, code_of, save, settings_of
from sim.simulation.recorder import other_code
from sim.simulation.virtual_run import VirtualRun
from sim.simulation.workers import Learners

FIRST_S = 2.0
"""Nothing is saved before: what is lost is quickly made again."""

PATIENCE_S = 60.0
"""When a round takes so much longer than a save would be worth, the run is saved in the middle of it."""


class Saving:
    """Looks between two events whether the run is to be saved, and saves it.

    Preferably that is at the end of a round, when few devices are at work: to save is to wait until all jobs
    are done. When somebody asks to stop, it is at once.

    Args:
        scenario: what runs.
        run: that lets virtual time pass.
        learners: tail and devices.
        record: of the run.
        pace: how often it is worth it.
    """

    def __init__(
        self,
        scenario: Scenario,
        run: VirtualRun,
        learners: Learners,
        record: RunFolder,
        pace: Pace | None = None,
    ) -> None:
        self._run = run
        self._learners = learners
        self._record = record
        self._pace = pace or Pace(first_s=FIRST_S)
        self._header = Simulated(settings_of(scenario), code_of(scenario))
        self._data = learners.data()
        self._rounds = 0

    def between(self, stops: bool) -> None:
        """Save the run if it is worth it, or if it stops here."""
        run = self._run
        if run.reason is not None:
            return
        ended, self._rounds = run.rounds > self._rounds, run.rounds
        if ended:
            self._learners.recorder.forget()
        overdue_s = self._pace.overdue_s
        if stops or overdue_s >= (0.0 if ended else PATIENCE_S):
            self._pace.attempt(self._save)
            self._record.checkpoint_error = self._pace.error

    def _save(self) -> None:
        recorder = self._learners.recorder
        if not recorder.settle():
            return  # a job has failed: the run ends when its time has come
        run, log_, tensors = self._run, recorder.log(), recorder.tensors()
        state = self._learners.state()
        moment = Moment(run.events, run.now_s, self._record.wall_s, log_, tensors, *state, self._data)
        save(self._record.folder, self._header, moment)

    def go_on(self, moment: Moment) -> None:
        """Let virtual time pass up to a moment, silently, with the results of the jobs before it.

        Raises:
            CannotGoOnError: that gives another moment, or a device has other samples than it had.
        """
        if changed := [client for client, digest in self._data.items() if moment.data[client] != digest]:
            more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""  # noqa: PLR2004
            raise CannotGoOnError(
                f"the data of {', '.join(changed[:5])}{more} have changed since this run began; "
                "put the old ones back, or --fresh begins the run anew"
            )
        run, recorder = self._run, self._learners.recorder
        run.repeat(moment.events)
        if run.reason is not None or recorder.jobs_done or run.now_s != moment.now_s:
            raise other_code(f"after {run.events} events it is {run.now_s} s, not {moment.now_s} s")
        self._learners.restore(moment.tail, moment.devices)
        self._rounds = run.rounds
        self._record.wall_s_before = moment.wall_s
