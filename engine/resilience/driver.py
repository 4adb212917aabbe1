"""The driver of a job: one deterministic state machine, live and simulated alike.

It gathers executors, gives them ranks, watches these by rules, and after a fault stops all, has
suspects examined, leaves bad hosts out, takes others, and goes on from the newest good state
(MegaScale, section 4.1). It is told what happens by :meth:`Driver.handle` and says what is to be
done; it has no clock, no chance and no I/O of its own.

Orders follow from what hosts should do and say they do: one that was lost is given again when the
next heartbeat shows that it was not carried out.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

from engine.resilience.cause import NUMERIC, Cause, Incident
from engine.resilience.crash_loop import CrashLoop
from engine.resilience.effects import Finish, Outbox
from engine.resilience.failure import explain
from engine.resilience.hosts import assign
from engine.resilience.ledger import Ledger, Spent
from engine.resilience.messages import (
    Adopt,
    Asked,
    Beat,
    Began,
    Checked,
    Disconnected,
    Ended,
    Hello,
    OnDisk,
    Place,
    Release,
    Saved,
    Slow,
    Start,
    Stop,
    Stopped,
    Wish,
)
from engine.resilience.past import Past
from engine.resilience.roster import Roster
from engine.resilience.rules.rule import Attempt
from engine.resilience.rules.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.resilience.config import ResilienceConfig
    from engine.resilience.effects import Effect
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Event
    from engine.resilience.recovery_point import RecoveryPoint

_AGAIN_S = 2.0  # after which an order that was not carried out is given again
_BETTER_WORD_S = 1.5  # who lost a peer is not the cause: who is, may be told meanwhile


class Phase(StrEnum):
    """What a driver is about."""

    ADOPTING = "adopting"
    """It is new, and executors that run ranks already are to find it."""
    GATHERING = "gathering"
    """There are too few hosts, or some are being examined."""
    STARTING = "starting"
    """Ranks were ordered, and have not begun their first step."""
    RUNNING = "running"
    STOPPING = "stopping"
    PAUSED = "paused"
    OVER = "over"


_WITH_RANKS = (Phase.STARTING, Phase.RUNNING, Phase.ADOPTING)


class Driver:
    """Drives one job.

    Args:
        generation: greater than that of every driver of this job before.
        ranks_per_host: of each of ``config.hosts`` hosts.
        last_step: the job is done after it.
        on_disk: the step of the newest whole checkpoint there is; 0: none.
        past: what :meth:`to_json` of the driver before said last, if there was one.
    """

    def __init__(
        self,
        config: ResilienceConfig,
        *,
        generation: int,
        ranks_per_host: int,
        last_step: int,
        now: float,
        on_disk: int = 0,
        past: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self.generation = generation
        self.ranks_per_host = ranks_per_host
        self.last_step = last_step
        self.phase = Phase.GATHERING
        self.since_s = now
        self.attempt = 0
        self.places: tuple[Place, ...] = ()
        self.ledger = Ledger(begun_s=now)
        self.outbox = Outbox()
        self.roster = Roster(config, generation, self.outbox)
        self.past = Past(config.hosts * ranks_per_host, on_disk, self.outbox)
        self._loop = CrashLoop(config.loop_after)
        self._bad_steps: dict[str, int] = {}
        self._order: Start | None = None
        self._watch: Watch | None = None
        self._began: set[str] = set()
        self._well: dict[str, float] = {}
        self._pending: tuple[float, Incident] | None = None
        if past is not None:
            self._take_over(past, now)
        self._handlers: dict[type, Callable[[Any, float], None]] = {
            Hello: self._greet,
            Beat: self._hear,
            Began: self._note_beginning,
            Ended: self._note_end,
            Stopped: self._note_stop,
            Checked: self.roster.conclude,
            Saved: self._note_saved,
            OnDisk: lambda event, _: self.past.found_on_disk(event.step),
            Disconnected: self._miss,
            Slow: self._note_slow,
            Asked: self._obey,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """What has happened, and what is to be done about it, in this order."""
        if self.phase is Phase.OVER:
            if isinstance(event, Hello | Beat):  # it has missed that the job is over
                self.outbox.tell(event.host, Release(generation=self.generation))
            return self.outbox.take()
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, now)
        self._go_on(now)
        return self.outbox.take()

    # -- what executors report ---

    def _greet(self, hello: Hello, now: float) -> None:
        host = self.roster[hello.host]
        again = host.incarnation not in ("", hello.incarnation)
        if again and host.here and self._has_ranks(host):
            self._blame(Cause.EXECUTOR_LOST, host.name, "it was started anew", now)
        host.greet(hello)
        self.outbox.note("host.joined", host=host.name, hardware=hello.hardware, slots=hello.slots)
        self.outbox.tell(host.name, Adopt(generation=self.generation))
        self._reconcile(host, now)

    def _hear(self, beat: Beat, now: float) -> None:
        host = self.roster.get(beat.host)
        if host is None or not host.here or host.incarnation != beat.incarnation:
            return  # it will say hello
        host.running, host.copies = beat.attempt, beat.copies
        if self._has_ranks(host) and beat.attempt == self.attempt:
            self._listen(beat, now)
        self.past.acknowledge(self.roster.here, self.places)
        self._reconcile(host, now)

    def _listen(self, beat: Beat, now: float) -> None:
        """A heartbeat of the attempt; one rank's steps speak for all: they step together."""
        if self.phase in (Phase.RUNNING, Phase.ADOPTING):
            for done in beat.done:
                if done.rank == 0:
                    self.ledger.step(done)
        if self.phase is Phase.RUNNING and self._watch is not None:
            for incident in self._watch.beat(beat, now):
                self._find(incident, now)

    def _note_beginning(self, began: Began, now: float) -> None:
        if began.attempt == self.attempt and self.phase is Phase.STARTING:
            self._began.add(began.host)
            if self._began >= {place.host for place in self.places}:
                self.ledger.train(now)
                self._run(now)

    def _note_end(self, ended: Ended, now: float) -> None:
        host = self.roster.get(ended.host)
        if host is not None and host.running == ended.attempt:
            host.running = 0
        if ended.attempt != self.attempt or self.phase not in _WITH_RANKS:
            return
        if not ended.well:
            self._fail(ended, now)
            return
        self._well.setdefault(ended.host, now)
        if self._well.keys() >= {place.host for place in self.places}:
            self._over("finished", "", now)

    def _fail(self, ended: Ended, now: float) -> None:
        """A rank has failed: unless it is because another did, which may be told any moment."""
        incident = explain(ended)
        if ended.own_error:
            self._note_incident(incident)
            self._over("failed", incident.detail, now)
        elif not ended.lost_peer:
            self._find(incident, now)
        elif self._pending is None:
            self._pending = (now + _BETTER_WORD_S, incident)

    def _note_stop(self, stopped: Stopped, now: float) -> None:
        host = self.roster.get(stopped.host)
        if host is not None and host.running <= stopped.attempt:
            host.running = 0

    def _note_saved(self, saved: Saved, now: float) -> None:
        if saved.attempt == self.attempt:
            self.past.saved(saved.step)

    def _miss(self, gone: Disconnected, now: float) -> None:
        host = self.roster.get(gone.host)
        if host is not None and host.incarnation == gone.incarnation and host.here:
            host.leave(now)
            self.outbox.note("host.left", host=host.name)

    # -- what others say ---

    def _note_slow(self, slow: Slow, now: float) -> None:
        spare = any(
            host.usable(self.ranks_per_host) and not self._has_ranks(host) for host in self.roster
        )
        recover = slow.certain and spare and self.phase is Phase.RUNNING
        detail = slow.detail
        self._find(
            Incident(cause=Cause.SLOW, hosts=slow.hosts, detail=detail, recover=recover), now
        )

    def _obey(self, asked: Asked, now: float) -> None:
        self.outbox.note("person.asked", wish=str(asked.wish), host=asked.host, why=asked.why)
        if asked.wish is Wish.STOP:
            self._over("stopped", asked.why or "a person asked for it", now)
        elif asked.wish is Wish.PAUSE:
            self._stop_ranks()
            self._enter(Phase.PAUSED, Spent.IDLE, now)
        elif asked.wish is Wish.RESUME and self.phase is Phase.PAUSED:
            self._gather(now)
        elif asked.wish is Wish.RESTART:
            self._find(Incident(cause=Cause.PERSON, detail=asked.why or "restart"), now)
        elif asked.wish is Wish.EVICT:
            host = self.roster[asked.host]
            why = asked.why or "evicted by a person"
            self.roster.block(host, why, now, for_ever=True)
            if self._has_ranks(host):
                self._blame(Cause.PERSON, host.name, why, now)

    # -- what follows from the time ---

    def _go_on(self, now: float) -> None:
        if self.phase is Phase.OVER:
            return
        if self.ledger.doing is not None:
            self.ledger.advance(now)
        self.roster.tend(now)
        if self.phase in (Phase.STARTING, Phase.RUNNING):
            self._look(now)
        if self.phase is Phase.ADOPTING:
            self._adopt(now)
        if self.phase is Phase.STOPPING:
            self._await_stop(now)
        if self.phase is Phase.GATHERING:
            self._try_start(now)

    def _look(self, now: float) -> None:
        """Faults that show by time."""
        if self._pending is not None and now >= self._pending[0]:
            self._find(self._pending[1], now)
            return
        for place in self.places:
            host = self.roster[place.host]
            gone = not (host.here or host.name in self._well)
            if gone and now - host.gone_s > self.config.reconnect_s:
                self._blame(Cause.EXECUTOR_LOST, host.name, "its connection has ended", now)
                return
        late = now - min(self._well.values(), default=now)
        if self.phase is Phase.STARTING:
            late = now - self.since_s
        if late > self.config.start_s:
            others = tuple(p.host for p in self.places if p.host not in self._began | {*self._well})
            detail = f"nothing within {self.config.start_s:g} s"
            self._find(Incident(cause=Cause.START, hosts=others, detail=detail), now)
        elif self._watch is not None and not self._well:
            for incident in self._watch.look(now):
                self._find(incident, now)

    # -- faults ---

    def _blame(self, cause: Cause, host: str, why: str, now: float) -> None:
        self._find(Incident(cause=cause, hosts=(host,), detail=f"{host}: {why}"), now)

    def _find(self, incident: Incident, now: float) -> None:
        """An incident: told, and if need be recovered from."""
        if self.phase not in (Phase.STARTING, Phase.RUNNING):
            return
        self._note_incident(incident)
        if not incident.recover:
            return
        if self._well and self.past.on_disk >= self.last_step:
            self._over("finished", f"after its last step: {incident.cause}", now)
            return
        if incident.good_until is not None:
            self.past.distrust_after(incident.good_until)
            if incident.cause in NUMERIC:
                self._bad_steps[str(incident.cause)] = incident.good_until + 1
        self.roster.suspect(incident, now)
        if self.config.check == "always":
            self.roster.suspect_all((p.host for p in self.places), str(incident.cause))
        if why := self._loop.add(incident, self.ledger.best):
            self._over("failed", why, now)
            return
        self._stop_ranks()
        self._enter(Phase.STOPPING, Spent.RESTART, now)

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
        for host in self.roster.here:
            if host.running or host.ordered[0] == self.attempt:
                order = Stop(generation=self.generation, attempt=self.attempt)
                self.outbox.tell(host.name, order)
                host.running = host.running or self.attempt  # until it says otherwise
        self._watch = None
        self._pending = None

    def _await_stop(self, now: float) -> None:
        left = [host for host in self.roster.here if host.running]
        if left and now - self.since_s <= self.config.stop_s:
            return
        for host in left:
            self.roster.block(host, f"ranks did not end within {self.config.stop_s:g} s", now)
        self._gather(now)

    # -- starting ---

    def _gather(self, now: float) -> None:
        self._enter(Phase.GATHERING, self._restart, now)

    @property
    def _restart(self) -> Spent:
        return Spent.RESTART if self.past.lineage.starts else Spent.START_UP

    def _try_start(self, now: float) -> None:
        examining = self.roster.examine()
        usable = [host for host in self.roster if host.usable(self.ranks_per_host)]
        places = assign(self.places, usable, self.config.hosts, self.ranks_per_host)
        if places is None:
            self.ledger.turn(Spent.SELF_CHECK if examining else Spent.IDLE, now)
            if now - self.since_s > self.config.gather_s:
                needed = f"{self.config.hosts} host(s) with {self.ranks_per_host} rank(s) each"
                self._over("failed", f"{needed} were not to be had, only {len(usable)}", now)
            return
        self.ledger.turn(self._restart, now)
        point = self.past.point(self.roster.here, self.places)
        if point is not None:
            self._start(places, point, now)

    def _start(self, places: tuple[Place, ...], point: RecoveryPoint, now: float) -> None:
        spent = self._restart
        self.attempt += 1
        self.places = places
        self.past.go_on(self.attempt, point.step)
        self._began.clear()
        self._well.clear()
        self._order = Start(
            generation=self.generation,
            attempt=self.attempt,
            places=places,
            step=point.step,
            resume=point.resume,
            sources=tuple(self.roster[name].address for name in point.holders),
        )
        for place in places:
            self.outbox.tell(place.host, self._order)
            self.roster[place.host].ordered = (self.attempt, now)
        self.outbox.note(
            "attempt",
            attempt=self.attempt,
            step=point.step,
            resume=str(point.resume),
            hosts=[place.host for place in places],
        )
        self._enter(Phase.STARTING, spent, now)

    def _run(self, now: float) -> None:
        attempt = Attempt(
            places=self.places,
            step=self.past.lineage.starts[self.attempt],
            begun_s=now,
            config=self.config,
        )
        self._watch = Watch(attempt, self._bad_steps)
        self.phase, self.since_s = Phase.RUNNING, now
        self.outbox.note("phase", phase=str(self.phase), attempt=self.attempt)

    # -- taking over from a driver before ---

    def _adopt(self, now: float) -> None:
        """Ranks that go on are left to; the ledger's account of them is still open."""
        hosts = (self.roster[place.host] for place in self.places)
        missing = tuple(host.name for host in hosts if host.running != self.attempt)
        if not missing and self.ledger.doing is None:
            self._run(now)
        elif not missing or now - self.since_s > self.config.adopt_s:
            self.phase = Phase.STARTING
            detail = "not found by the new driver with its ranks"
            self._find(Incident(cause=Cause.EXECUTOR_LOST, hosts=missing, detail=detail), now)

    def _take_over(self, past: Mapping[str, Any], now: float) -> None:
        self.attempt = past["attempt"]
        self.places = tuple(Place(**each) for each in past["places"])
        self.past.take_over(past["past"])
        self.roster.take_over(past["blocked"])
        self.ledger = Ledger.from_json(past["ledger"])
        self._bad_steps = dict(past["bad_steps"])
        self._loop.step, self._loop.signatures = past["loop"][0], list(past["loop"][1])
        for place in self.places:
            self.roster[place.host].gone_s = now
        phase = Phase(past["phase"])
        self.phase = Phase.ADOPTING if phase in _WITH_RANKS else phase
        if phase is Phase.STOPPING:
            self.phase = Phase.GATHERING

    def to_json(self) -> dict[str, Any]:
        """What the next driver must know; to be kept before the effects are carried out."""
        places = [
            {"host": p.host, "first": p.first, "count": p.count, "address": p.address}
            for p in self.places
        ]
        return {
            "generation": self.generation,
            "attempt": self.attempt,
            "phase": str(self.phase),
            "places": places,
            "past": self.past.to_json(),
            "blocked": self.roster.to_json(),
            "ledger": self.ledger.to_json(),
            "bad_steps": self._bad_steps,
            "loop": [self._loop.step, self._loop.signatures],
        }

    # -- small things ---

    def _reconcile(self, host: Host, now: float) -> None:
        """What a host does against what it should do."""
        wanted = self.attempt if self._has_ranks(host) and self.phase in _WITH_RANKS else 0
        if host.running and host.running != wanted:
            order = Stop(generation=self.generation, attempt=host.running)
            self.outbox.tell(host.name, order)
        elif wanted and not host.running and host.name not in self._well and self._order:
            attempt, when = host.ordered
            if attempt != wanted or now - when > _AGAIN_S:
                self.outbox.tell(host.name, self._order)
                host.ordered = (wanted, now)

    def _has_ranks(self, host: Host) -> bool:
        return any(place.host == host.name for place in self.places)

    def _over(self, status: str, reason: str, now: float) -> None:
        if status != "finished":
            self._stop_ranks()
        self.ledger.finish(now)
        self.phase, self.since_s = Phase.OVER, now
        for host in self.roster.here:
            self.outbox.tell(host.name, Release(generation=self.generation))
        self.outbox.add(Finish(status=status, reason=reason))

    def _enter(self, phase: Phase, spent: Spent, now: float) -> None:
        self.phase, self.since_s = phase, now
        self.ledger.turn(spent, now)
        self.outbox.note("phase", phase=str(phase), attempt=self.attempt)
