"""A simulated job: repeatable, as the closed forms say, and no different with every heartbeat."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from engine.resilience.ledger import Spent
from engine.resilience.messages import Beat
from engine.simulation.interruptions import LLAMA3, Component, Interruptions, Shows
from engine.simulation.train.daly import best_interval_s, expected_effective
from engine.simulation.train.estimate import Estimate
from engine.simulation.train.failures import Load, Rhythm
from engine.simulation.train.job import Job
from engine.simulation.train.practices import MEGASCALE, OURS
from engine.simulation.train.scale import Scale

if TYPE_CHECKING:
    from engine.simulation.train.costs import Costs
    from engine.simulation.train.outcome import Outcome

DAY_S = 86_400.0
SMALL = replace(
    OURS,
    step_s=0.5,
    copy_s=0.5,
    checkpoint_every_s=60.0,
    checkpoint_block_s=(0.2, 0.2),
    publish_s=1.0,
    report_s=(0.1, 0.1),
    start_s=(3.0, 3.0),
    stop_s=(0.2, 0.2),
    check_s=(5.0, 5.0),
    replenish_s=(8.0, 8.0),
    silent_s=(1.0, 1.0),
    standbys=1,
    config={"accused_most": 1000, "loop_after": 1000},
)


def load_of(
    shows: Shows, every_s: float, *, bad: bool = False, rhythm: Rhythm = "exponential"
) -> Load:
    one = Component(component="it", count=1, gpus=1, days=1, shows=shows, replace=bad)
    return Load(
        interruptions=Interruptions(source="a test", components=(one,)),
        every_s=every_s,
        rhythm=rhythm,
    )


def run(costs: Costs, load: Load, *, seed: int = 0, duration_s: float = 1200.0) -> Outcome:
    scale = Scale(hosts=3, gpus_per_host=2, duration_s=duration_s)
    return Job(scale, costs, load, seed).run()


def llama(*, exact: bool = False, duration_s: float, hosts: int = 1536) -> tuple[Scale, Load]:
    scale = Scale(hosts=hosts, gpus_per_host=8, duration_s=duration_s, exact=exact)
    return scale, Load(interruptions=LLAMA3, every_s=1 / LLAMA3.per_s(12_288))


def test_the_same_seed_gives_the_same() -> None:
    scale, load = llama(duration_s=5 * DAY_S)
    first, again = (Job(scale, OURS, load, 3).run() for _ in range(2))
    assert first == again
    assert first != Job(scale, OURS, load, 4).run()


@pytest.mark.parametrize("costs", [MEGASCALE, OURS])
def test_every_second_has_a_cause(costs: Costs) -> None:
    scale, load = llama(duration_s=10 * DAY_S)
    outcome = Job(scale, costs, load, 0).run()
    assert outcome.failures > 20
    assert outcome.gap < 1e-9
    assert outcome.wall_s == 10 * DAY_S


def test_without_failures_only_saving_and_starting_cost() -> None:
    outcome = run(SMALL, load_of(Shows.CRASH, 1e9), duration_s=3600.0)
    saving = 0.2 / 60 + 0.025 / 5  # of each second of training
    assert outcome.spent_s[Spent.START_UP] == pytest.approx(3.0)
    assert outcome.effective == pytest.approx((1 - 3 / 3600) / (1 + saving), abs=3e-4)
    assert outcome.attempts == 1


def test_checkpoints_agree_with_daly() -> None:
    """Crashes that hit any time but take none to notice: Daly's assumptions."""
    costs = replace(
        SMALL,
        snapshot_every=0,
        step_s=0.2,
        checkpoint_every_s=100.0,
        checkpoint_block_s=(2.0, 2.0),
        publish_s=0.0,
        report_s=(0.0, 0.0),
        stop_s=(0.0, 0.0),
        start_s=(20.0, 20.0),
        check="never",
    )
    load = load_of(Shows.KILL, 600.0)
    found = Estimate.of(
        [run(costs, load, seed=seed, duration_s=60_000.0).effective for seed in range(8)]
    )
    expected = expected_effective(work_s=100.0, save_s=2.0, restart_s=20.0, every_s=600.0)
    assert found.interval is not None
    low, high = found.interval
    assert low <= expected <= high
    assert high - low < 0.02


def test_youngs_interval_is_the_best() -> None:
    best = best_interval_s(save_s=2.0, every_s=6000.0)
    at = {
        factor: expected_effective(work_s=best * factor, save_s=2.0, restart_s=20.0, every_s=6000.0)
        for factor in (0.5, 1.0, 2.0)
    }
    assert at[1.0] == max(at.values())


@pytest.mark.parametrize("shows", list(Shows))
@pytest.mark.parametrize("bad", [False, True])
def test_what_is_skipped_changes_nothing(shows: Shows, bad: bool) -> None:
    """With every heartbeat of every host sent to the driver, the ledger says the same."""
    load = load_of(shows, 97.0, bad=bad, rhythm="fixed")
    sparse = run(SMALL, load, duration_s=320.0)
    dense = _with_every_heartbeat(SMALL, load)
    noticed_s = sparse.failures * SMALL.beat_s  # time-outs are looked at with each heartbeat
    for spent in Spent:
        assert dense.spent_s[spent] == pytest.approx(sparse.spent_s[spent], abs=noticed_s), spent
    assert dense.attempts == sparse.attempts
    assert dense.incidents == sparse.incidents


class Dense(Job):
    """Sends every heartbeat of every host."""

    def beat(self, now: float, *, news: bool = False) -> None:
        for host in list(self.hosts.values()):
            if not host.silent:
                self.handle(
                    Beat(
                        host=host.name,
                        incarnation=host.incarnation,
                        attempt=host.executor.attempt,
                        copies=host.copies,
                    ),
                    now,
                )

    def beat_on(self) -> None:
        if self.training is not None:
            self.training.keep_up()
        else:
            self.beat(self.timeline.now)
        self.timeline.after(self.costs.beat_s, self.beat_on)


def _with_every_heartbeat(costs: Costs, load: Load) -> Outcome:
    job = Dense(Scale(hosts=3, gpus_per_host=2, duration_s=320.0), costs, load, 0)
    job.beat_on()
    return job.run()


@pytest.mark.parametrize("costs", [MEGASCALE, OURS])
def test_few_hosts_stand_for_all(costs: Costs) -> None:
    """Every host and rank of 48 hosts, or few of them with as many failures: nearly the same."""
    _, load = llama(duration_s=0)
    found = []
    for exact in (False, True):
        scale, _ = llama(duration_s=3 * DAY_S, hosts=48, exact=exact)
        found.append(Job(scale, costs, load, 0).run())
    few, all_of_them = found
    assert few.failures == all_of_them.failures > 5
    assert few.effective == pytest.approx(all_of_them.effective, abs=1e-3)


def test_a_bad_host_is_replaced_and_a_standby_takes_over() -> None:
    outcome = run(SMALL, load_of(Shows.CRASH, 200.0, bad=True, rhythm="fixed"))
    assert outcome.failures == outcome.replaced == 5
    assert outcome.spent_s[Spent.IDLE] < 1.0
    alone = run(replace(SMALL, standbys=0), load_of(Shows.CRASH, 200.0, bad=True, rhythm="fixed"))
    assert alone.spent_s[Spent.IDLE] == pytest.approx(5 * 8.0, abs=1.0)


def test_copies_in_memory_survive_their_host() -> None:
    bad = load_of(Shows.LOST, 200.0, bad=True, rhythm="fixed")
    with_copies = run(SMALL, bad)
    without = run(replace(SMALL, snapshot_every=0), bad)
    assert with_copies.spent_s[Spent.RECOMPUTATION] < 5 * (5.0 + 1.0)
    assert without.spent_s[Spent.RECOMPUTATION] > 1.5 * with_copies.spent_s[Spent.RECOMPUTATION]


def test_silent_corruption_loses_what_came_after_it() -> None:
    late = replace(SMALL, silent_s=(30.0, 30.0))
    outcome = run(late, load_of(Shows.SILENT, 300.0, bad=True, rhythm="fixed"))
    assert outcome.incidents == {"corrupted weights": 3}
    assert outcome.spent_s[Spent.RECOMPUTATION] > 3 * 28.0


def test_costs_scale_and_stay_sensible() -> None:
    half = OURS.scaled(("snapshot_every", "start_s", "overdue_factor", "standbys"), 0.1)
    assert (half.snapshot_every, half.standbys, half.overdue_factor) == (1, 1, 2.0)
    assert half.start_s == pytest.approx((4.6, 6.5))
    assert set(OURS.sources) == set(MEGASCALE.sources)
