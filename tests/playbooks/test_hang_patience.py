"""When a silent run is looked at: simulated runs of every kind, seeded.

Healthy ones never raise an alarm; those that hang do, at most two seconds after the patience.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from collectors.board import Activity, BoardState, InCollective
from playbooks.hang.observation import Observation
from playbooks.hang.patience import Alarm, HangWatch, Overdue, Patience, WentOn

PATIENCE = Patience()


@dataclass
class SimulatedRank:
    """A rank that does pieces of work one after the other, and says so on its board."""

    rank: int
    ticks: int = 0
    step: int = -1
    done: int = 0
    activity: Activity = Activity.NONE
    waits: bool = False
    left: bool | None = None
    alive: bool = True
    stopped: bool = False
    cpu_s: float = 0.0
    io_bytes: int = 0
    board: BoardState | None = None
    shown: tuple[object, ...] = ()
    work: list[tuple[float, Activity, float, float, bool]] = field(default_factory=list)
    """Seconds, activity, cores used, bytes a second, whether a step is done at its end."""

    def begin(
        self,
        seconds: float,
        activity: Activity,
        *,
        cores: float = 0.5,
        bytes_a_s: float = 0.0,
        completes: bool = False,
    ) -> None:
        """Add a piece of work."""
        self.work.append((seconds, activity, cores, bytes_a_s, completes))

    def run(self, seconds: float) -> None:
        """Work for so long."""
        while seconds > 0 and self.work and not self.stopped and self.alive:
            left, activity, cores, bytes_a_s, completes = self.work[0]
            if self.activity is not activity:
                self.activity = activity
                self.ticks += 1
            spent = min(left, seconds)
            self.cpu_s += cores * spent
            self.io_bytes += int(bytes_a_s * spent)
            seconds -= spent
            if left > spent:
                self.work[0] = (left - spent, *self.work[0][1:])
                return
            self.work.pop(0)
            self.ticks += 1
            if completes:
                self.done += 1
                self.step = self.done + 1

    def seen(self) -> Observation:
        """As a watchdog sees it."""
        shown = (self.ticks, self.activity, self.waits, self.left, self.step)
        if self.board is None or self.shown != shown:
            self.board, self.shown = self._board(), shown
        return Observation(
            rank=self.rank,
            host="host",
            pid=100 + self.rank,
            alive=self.alive,
            stopped=self.stopped,
            cpu_s=self.cpu_s,
            io_bytes=self.io_bytes,
            board=self.board,
        )

    def _board(self) -> BoardState:
        collective = InCollective(
            name="all_reduce",
            group="world[0-3]",
            group_size=4,
            sequence=self.done,
            size_bytes=4,
            since_ns=0,
            where="train.py:9",
            unusual=False,
        )
        return BoardState(
            ticks=self.ticks,
            ticked_ns=0,
            step=self.step,
            steps_done=self.done,
            activity=self.activity,
            activity_ns=0,
            collective=collective if self.waits else None,
            left=self.left,
            last_words="",
            asked=0,
            answered=0,
        )


class SimulatedRun:
    """Some ranks in lock step, watched once a second, more or less."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ranks = [SimulatedRank(rank) for rank in range(self.random.choice((1, 2, 2, 4)))]
        self.watch = HangWatch(PATIENCE)
        self.now_s = self.random.uniform(0, 1e6)
        self.said: list[Alarm | WentOn | Overdue] = []
        self.said_s = 0.0

    def step(self, seconds: float) -> None:
        """One step of training, of about that length, on all ranks."""
        for rank in self.ranks:
            own = seconds * self.random.uniform(0.8, 1.2)
            rank.begin(0.1 * own, Activity.DATA)
            rank.begin(0.4 * own, Activity.FORWARD)
            rank.begin(0.5 * own, Activity.BACKWARD, completes=True)
        self.live()

    def only(self, seconds: float, activity: Activity, **how: float) -> None:
        """One rank works, the others wait for it."""
        chosen = self.random.choice(self.ranks)
        for rank in self.ranks:
            rank.waits = rank is not chosen
        chosen.begin(seconds, activity, **how)  # type: ignore[arg-type]
        self.live()
        for rank in self.ranks:
            rank.waits = False
            rank.ticks += 1

    def live(self, seconds: float | None = None) -> None:
        """Until all work is done, or for so long."""
        end_s = self.now_s + (1e9 if seconds is None else seconds)
        while self.now_s < end_s and (seconds is not None or any(r.work for r in self.ranks)):
            for rank in self.ranks:
                rank.run(1.0)
            self.now_s += self.random.uniform(0.9, 1.1)
            said = self.watch.look(self.now_s, [rank.seen() for rank in self.ranks])
            if said is not None:
                self.said.append(said)
                self.said_s = self.now_s

    def alarms(self) -> list[Alarm]:
        """What was raised so far."""
        return [each for each in self.said if isinstance(each, Alarm)]


def healthy(run: SimulatedRun) -> None:
    """A slow first step, then steps, checkpoints, compilations and evaluations in any order."""
    usual_s = run.random.choice((0.2, 1.0, 4.0))
    run.step(run.random.choice((0.5, 20.0, 90.0, 500.0)))
    for _ in range(30):
        kind = run.random.random()
        if kind < 0.8:
            run.step(usual_s)
        elif kind < 0.87:
            run.only(run.random.uniform(1, 400), Activity.CHECKPOINT, cores=0.01)
        elif kind < 0.92:
            run.only(run.random.uniform(1, 500), Activity.COMPILE)
        elif kind < 0.96:
            run.only(run.random.uniform(1, 200), Activity.DECLARED, cores=0.0)
        else:  # an evaluation that reads its data, and that nobody sees otherwise
            run.only(run.random.uniform(1, 120), Activity.NONE, cores=0.1, bytes_a_s=1e6)


def test_healthy_runs_raise_no_alarm(seeds: range = range(60)) -> None:
    for seed in seeds:
        run = SimulatedRun(seed)
        healthy(run)
        assert not [s for s in run.said if not isinstance(s, Overdue)], (seed, run.said)


@pytest.mark.slow
def test_thousands_of_healthy_runs_raise_no_alarm() -> None:
    test_healthy_runs_raise_no_alarm(range(60, 3000))


@pytest.mark.parametrize("how", ["idle", "busy", "stopped", "gone"])
def test_hanging_runs_raise_one_alarm_in_time(how: str) -> None:
    for seed in range(60):
        run = SimulatedRun(seed)
        while len(run.ranks) < 2:
            run = SimulatedRun(seed := seed + 1000)
        for _ in range(20):
            run.step(run.random.choice((0.5, 1.0, 2.0)))
        assert not run.said
        culprit = run.random.choice(run.ranks)
        for rank in run.ranks:
            rank.waits = rank is not culprit
        culprit.stopped, culprit.alive = how == "stopped", how != "gone"
        culprit.begin(1e6, Activity.FORWARD, cores=1.0 if how == "busy" else 0.0)
        began_s = run.now_s
        run.live(40.0)
        allowed = PATIENCE.busy_s if how == "busy" else PATIENCE.idle_s
        assert allowed <= run.alarms()[0].silence_s + 1
        assert run.said_s - began_s <= allowed + 2.3, (seed, how)
        assert run.alarms()[0].busy.get(culprit.rank, False) == (how == "busy")
        assert len(run.said) == 1


def test_a_stopped_rank_is_seen_before_the_first_step_a_slow_one_is_not() -> None:
    run = SimulatedRun(1)
    run.ranks = [SimulatedRank(0, waits=True), SimulatedRank(1)]
    run.live(PATIENCE.long_s - 10)
    assert not run.said
    run.live(20)
    assert len(run.alarms()) == 1

    run = SimulatedRun(2)
    run.ranks = [SimulatedRank(0, waits=True), SimulatedRank(1, stopped=True)]
    run.live(PATIENCE.idle_s + 2)
    assert len(run.alarms()) == 1


def test_a_run_that_pauses_is_given_three_times_its_longest_pause() -> None:
    run = SimulatedRun(3)
    for pause_s in (0.5, 0.5, 9.0, 0.5):
        run.step(0.5)
        run.only(pause_s, Activity.NONE, cores=0.0)
    run.live(24)
    assert not run.said
    run.live(10)
    assert len(run.alarms()) == 1


def test_a_long_pause_makes_it_patient_at_its_own_place_only() -> None:
    """After an evaluation of a minute, that nobody saw, a hang in the forward pass is told soon."""
    for activity, patient in ((Activity.NONE, True), (Activity.FORWARD, False)):
        run = SimulatedRun(11)
        run.step(0.5)
        run.only(60.0, Activity.NONE, cores=0.0)
        assert [type(each) for each in run.said] == [Alarm, WentOn]
        run.step(0.5)
        for rank in run.ranks:
            rank.waits = rank is not run.ranks[0]
        run.ranks[0].begin(1e6, activity, cores=0.0)
        run.live(PATIENCE.elsewhere_s + 3)
        assert (len(run.alarms()) == 1) == patient
        run.live(170)
        assert len(run.alarms()) == 2


def test_after_an_excuse_it_waits_long_and_tells_when_the_run_goes_on() -> None:
    run = SimulatedRun(4)
    run.step(1.0)
    run.live(20)
    assert len(run.alarms()) == 1
    run.watch.excuse()
    run.live(PATIENCE.long_s - 30)
    assert len(run.said) == 1
    run.live(60)
    assert [alarm.excused for alarm in run.alarms()] == [False, True]
    run.step(1.0)
    assert isinstance(run.said[-1], WentOn)


def test_an_excuse_is_for_one_silence_only() -> None:
    run = SimulatedRun(4)
    for _ in range(3):
        run.step(1.0)
        run.live(30)
        assert not run.alarms().pop().excused
        run.watch.excuse()
    assert len(run.said) == 3


def test_dumps_that_were_asked_for_are_no_progress() -> None:
    run = SimulatedRun(5)
    run.step(1.0)
    run.live(20)
    for rank in run.ranks:
        rank.io_bytes += 10**8
    run.live(20)
    assert len(run.said) == 1


def test_a_watchdog_that_was_stopped_itself_accuses_nobody() -> None:
    run = SimulatedRun(6)
    run.step(1.0)
    run.now_s += 3600  # the whole container was frozen
    run.live(PATIENCE.idle_s - 5)
    assert not run.said


def test_what_trickles_is_no_progress_and_nobody_is_watched_after_the_end() -> None:
    run = SimulatedRun(7)
    run.step(1.0)
    for rank in run.ranks:
        rank.begin(1e6, Activity.NONE, cores=0.0, bytes_a_s=20_000)  # a log, telemetry
    run.live(20)
    assert len(run.alarms()) == 1

    ended = SimulatedRun(8)
    ended.step(1.0)
    for rank in ended.ranks:
        rank.left = True
    ended.live(1000)
    assert not ended.said


def test_a_step_that_is_overdue_is_told_once() -> None:
    run = SimulatedRun(9)
    run.ranks = run.ranks[:1]
    for _ in range(10):
        run.step(1.0)
    for _ in range(40):
        run.ranks[0].begin(0.9, run.random.choice((Activity.DATA, Activity.FORWARD)))
    run.live()
    (said,) = run.said
    assert isinstance(said, Overdue)
    assert said.taken_s > 10
    assert said.usual_s == pytest.approx(1.5, abs=1.0)  # as seen once a second
    run.step(1.0)
    assert len(run.said) == 1


def test_restarted_ranks_count_anew() -> None:
    """Elastic training: new processes of the same ranks have their slow first step again."""
    run = SimulatedRun(10)
    run.step(1.0)
    observed = [replace(rank.seen(), pid=500 + rank.rank) for rank in run.ranks]
    assert all(each.board is not None for each in observed)
    fresh = [
        replace(each, board=replace(each.board, steps_done=0, ticks=1))
        for each in observed
        if each.board is not None
    ]
    said = [run.watch.look(run.now_s + i, fresh) for i in range(1, 200)]
    assert not any(said)
