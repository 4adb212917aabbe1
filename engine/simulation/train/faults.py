"""What a failure does to a job, and how executors come to report it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.resilience.driver import Phase
from engine.resilience.messages import Beat, RankState, StepDone, Tick
from engine.simulation.interruptions import Shows
from engine.simulation.train.heartbeats import last_heartbeat, sight_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.resilience.messages import Place
    from engine.simulation.interruptions import Component
    from engine.simulation.train.failures import Failure
    from engine.simulation.train.host import SimulatedHost
    from engine.simulation.train.job import Job

_ENDS = (Shows.CRASH, Shows.KILL, Shows.ERROR)
_SOON_S = 0.001
_WAITS = "dp all_reduce"


class Faults:
    """Of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def strike(self, failure: Failure) -> None:
        """A failure. One that is not the hardware's has nothing to hit while no ranks run."""
        job = self._job
        places = job.driver.places
        if not places:
            return
        host = job.hosts.get(places[int(failure.where * len(places))].host)
        if host is None or host.silent:
            return
        component = failure.component
        step = job.training.step if job.training else job.driver.ledger.best
        job.losses.fail(component.component, step, job.timeline.now)
        if component.replace:
            host.fault = component
        if job.training is not None:
            self._show(host, component)
        elif component.shows is Shows.LOST:
            self._fall_silent(host)
        elif job.driver.phase is Phase.STARTING and component.shows in _ENDS:
            host.end_ranks(component.shows)

    def show_again(self) -> None:
        """Ranks train on hosts of which some may be bad."""
        for place in self._job.driver.places:
            host = self._job.hosts.get(place.host)
            if host is not None and host.fault is not None:
                self._show(host, host.fault)

    def _show(self, host: SimulatedHost, component: Component) -> None:
        job, shows = self._job, component.shows
        assert job.training is not None
        job.training.keep_up()
        if shows is Shows.SILENT:
            self._later("silent_s", partial(self._tell_numbers, host, job.training.step + 1))
            return
        job.training.freeze()
        if shows in _ENDS:
            self._later("report_s", partial(host.end_ranks, shows))
        elif shows is Shows.LOST:
            self._fall_silent(host)
        else:
            stuck = host if shows is Shows.HANG else None
            job.timeline.after(job.costs.beat_s, self._if_same(partial(self._hang, stuck)))

    def _later(self, cost: str, do: Callable[[], None]) -> None:
        self._job.timeline.after(self._job.draw(cost), self._if_same(do))

    def _if_same(self, do: Callable[[], None]) -> Callable[[], None]:
        """Only while the ranks that it is about are there."""
        training = self._job.training

        def do_if_same() -> None:
            if self._job.training is training:
                do()

        return do_if_same

    def _fall_silent(self, host: SimulatedHost) -> None:
        """Its last heartbeat was sent at any time within the last interval."""
        job = self._job
        host.silent = True
        last = job.timeline.now - job.chance.random() * job.costs.beat_s
        last_heartbeat(job.driver, host, last)
        for late in (0.0, job.config.reconnect_s + _SOON_S):  # without ranks, only then
            job.timeline.at(last + job.config.lost_after_s + _SOON_S + late, self._tick)

    def _tick(self) -> None:
        self._job.tell(Tick())

    def _tell_numbers(self, host: SimulatedHost, step: int) -> None:
        """Weights of one of its ranks are not what they were."""
        place = self._place(host)
        rank = place.ranks[-1]
        seconds = self._job.costs.step_s if rank else 0.0  # rank 0's time is told already
        self._job.tell(
            Beat(
                host=host.name,
                incarnation=host.incarnation,
                attempt=self._job.driver.attempt,
                copies=host.copies,
                done=(StepDone(rank=rank, step=step, seconds=seconds, intact=False),),
            )
        )

    def _hang(self, stuck: SimulatedHost | None) -> None:
        """Two hosts tell what their ranks do; that is enough for the rule."""
        job = self._job
        hosts = [job.hosts[place.host] for place in job.driver.places if place.host in job.hosts]
        other = next((host for host in hosts if host is not stuck), None)
        for host in filter(None, (stuck, other)):
            waits_in = "" if host is stuck else _WAITS
            states = (
                RankState(rank=rank, waits_in=waits_in, process="S")
                for rank in self._place(host).ranks
            )
            job.tell(
                Beat(
                    host=host.name,
                    incarnation=host.incarnation,
                    attempt=job.driver.attempt,
                    copies=host.copies,
                    ranks=tuple(states),
                )
            )
        self._await_notice()

    def _await_notice(self) -> None:
        """The rule is asked when it should find the step overdue, and at each heartbeat then."""
        job, config = self._job, self._job.config
        sight = sight_of(job.driver)
        if sight is None:
            return
        patience = max(config.overdue_least_s, config.overdue_factor * sight.usual_s)
        if not sight.usual_s:
            patience = max(patience, config.start_s / 4)
        again = self._if_same(self._ask)
        job.timeline.at(sight.moved_s + patience + _SOON_S, again)

    def _ask(self) -> None:
        self._tick()
        if self._job.training is not None:
            self._job.timeline.after(self._job.costs.beat_s, self._if_same(self._ask))

    def _place(self, host: SimulatedHost) -> Place:
        return next(place for place in self._job.driver.places if place.host == host.name)
