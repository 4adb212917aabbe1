"""What a driver does after a fault: all ranks end, and another attempt begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import NUMERIC, Cause, Incident
from engine.resilience.effects import Finish
from engine.resilience.fence import may_go_on, unstopped
from engine.resilience.hosts import assign
from engine.resilience.job import Job
from engine.resilience.ledger import Spent
from engine.resilience.messages import Release, Stop
from engine.resilience.numbering import before_first
from engine.resilience.phase import WITH_RANKS, Phase

if TYPE_CHECKING:
    from engine.resilience.messages import Place
    from engine.resilience.recovery_point import RecoveryPoint


class Recovery(Job):
    """From an incident over the end of all ranks to the next attempt, or to the end of the job."""

    # -- faults ---

    def _blame(self, cause: Cause, host: str, why: str, now: float) -> None:
        self._find(Incident(cause=cause, hosts=(host,), detail=f"{host}: {why}"), now)

    def _find(self, incident: Incident, now: float) -> None:
        """An incident: told, and if need be recovered from."""
        if self.phase in WITH_RANKS:
            self._note_incident(incident)
            if incident.recover:
                self._recover(incident, now)
        elif incident.recover and incident.good_until is not None:
            self._note_incident(incident)  # the attempt is given up already, but not what it left
            self._distrust(incident, incident.good_until)
            self.roster.suspect(incident, now)

    def _recover(self, incident: Incident, now: float) -> None:
        if incident.good_until is not None:
            self._distrust(incident, incident.good_until)
        elif self.course.well and self.past.on_disk >= self.last_step:
            self._over("finished", f"after its last step: {incident.cause}", now)
            return
        self.roster.suspect(incident, now, spare=self._has_spare)
        self._blamed_nobody = incident.cause is Cause.PEER_LOST
        if why := self._loop.add(incident, self.ledger.best):
            self._over("failed", why, now)
            return
        if self.config.check == "always":
            self.roster.suspect_all(self.course.hosts, str(incident.cause))
        elif self.config.check == "suspects" and self._loop.goes_round:
            # Bad hardware shows as any error: what comes back is examined before it is a loop.
            self.roster.suspect_all(incident.hosts or self.course.hosts, str(incident.cause))
        self._stop_ranks()
        self._enter(Phase.STOPPING, Spent.RESTART, now)

    @property
    def _has_spare(self) -> bool:
        """Whether a host stands by."""
        ranks = self.ranks_per_host
        return any(h.usable(ranks) and not self.course.has(h.name) for h in self.roster)

    def _distrust(self, incident: Incident, good_until: int) -> None:
        self.past.distrust_after(good_until)
        if incident.cause in NUMERIC:
            self._bad_steps[str(incident.cause)] = [good_until + 1, *incident.hosts]

    def _note_incident(self, incident: Incident) -> None:
        self.outbox.note(
            "incident",
            cause=str(incident.cause),
            recover=incident.recover,
            hosts=list(incident.hosts),
            ranks=list(incident.ranks),
            detail=incident.detail,
            step=self._watch.sight.step if self._watch else -1,
            attempt=self.attempt,
        )

    def _stop_ranks(self) -> None:
        order = Stop(generation=self.generation, attempt=self.attempt)
        for host in self.roster.here:
            if host.running or (self.course.has(host.name) and host.stopped < self.attempt):
                self.outbox.tell(host.name, order)
        self._pending = None

    def _await_stop(self, now: float) -> None:
        hosts = [self.roster[name] for name in self.course.hosts]
        if not may_go_on(hosts, self.attempt, now - self.since_s, self.config):
            return
        for host in unstopped(hosts, self.attempt):
            self.roster.block(host, f"ranks did not end within {self.config.stop_s:g} s", now)
        self._gather(now)

    # -- starting ---

    def _gather(self, now: float) -> None:
        self._enter(Phase.GATHERING, self._restart, now)

    def _try_start(self, now: float) -> None:
        examining = self.roster.examine()
        usable = [host for host in self.roster if host.usable(self.ranks_per_host)]
        places = assign(self.places, usable, self.config.hosts, self.ranks_per_host)
        if places is None:
            if not examining:
                self.roster.reprieve(now)
            self.ledger.turn(Spent.SELF_CHECK if examining else Spent.IDLE, now)
            if now - self.since_s > self.config.gather_s:
                needed = f"{self.config.hosts} host(s) with {self.ranks_per_host} rank(s) each"
                self._over("failed", f"{needed} were not to be had, only {len(usable)}", now)
            return
        self.ledger.turn(self._restart, now)
        point = self.past.point(self.roster.here, self.places)
        if point is None:
            return
        if point.step < self.past.expected and now - self.since_s <= self.config.lost_after_s:
            return  # who holds newer copies may only have lost its connection
        self._start(places, point, now)

    def _start(self, places: tuple[Place, ...], point: RecoveryPoint, now: float) -> None:
        spent = self._restart
        attempt = self._next_attempt()
        sources = tuple(self.roster[name].address for name in point.holders)
        order = self.course.begin(attempt, self.generation, places, point, sources)
        self.past.go_on(attempt, point.step)
        self._watch = None
        for place in places:
            self.outbox.tell(place.host, order)
            self.roster[place.host].ordered = (attempt, now)
        self.outbox.note(
            "attempt",
            attempt=self.attempt,
            step=point.step,
            resume=str(point.resume),
            hosts=[place.host for place in places],
        )
        self._enter(Phase.STARTING, spent, now)

    def _next_attempt(self) -> int:
        return max(self.attempt, before_first(self.generation)) + 1

    def _run(self, now: float) -> None:
        self.phase, self.since_s = Phase.RUNNING, now
        self.outbox.note("phase", phase=str(self.phase), attempt=self.attempt)

    # -- the end ---

    def _over(self, status: str, reason: str, now: float) -> None:
        if status != "finished":
            self._stop_ranks()
        self._end_as(status, reason, now)
        for host in self.roster.here:
            self._release(host.name)

    def _release(self, host: str) -> None:
        self.outbox.tell(host, Release(generation=self.generation))

    def _end_as(self, status: str, reason: str, now: float) -> None:
        self.ledger.finish(now)
        self.phase, self.since_s = Phase.OVER, now
        self._end = Finish(status=status, reason=reason)
        self._end_told = True
        self.outbox.add(self._end)

    def _tell_end_again(self) -> None:
        """The driver before may have ended before it could tell."""
        if self._end is not None and not self._end_told:
            self._end_told = True
            self.outbox.add(self._end)
