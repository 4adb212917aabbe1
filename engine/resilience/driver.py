"""The driver of a job: one deterministic state machine, live and simulated alike.

It gathers executors, gives them ranks, watches these by rules, and after a fault stops all, has
suspects examined, leaves bad hosts out, takes others, and goes on from the newest good state
(MegaScale, section 4.1). It is told what happens by :meth:`Driver.handle` and says what is to be
done; it has no clock, no chance and no I/O of its own.

Orders follow from what hosts should do and say they do: one that was lost is given again when the
next heartbeat shows that it was not carried out.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from engine.resilience.cause import NUMERIC, Cause, Incident
from engine.resilience.course import Course
from engine.resilience.crash_loop import CrashLoop
from engine.resilience.effects import Finish, Outbox
from engine.resilience.failure import explain
from engine.resilience.fence import may_go_on, unstopped
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
    Release,
    Saved,
    Slow,
    Stop,
    Stopped,
    Wish,
)
from engine.resilience.numbering import before_first
from engine.resilience.past import Past
from engine.resilience.phase import WITH_RANKS, Phase
from engine.resilience.roster import Roster
from engine.resilience.rules.numbers import REMEMBERED
from engine.resilience.rules.rule import Attempt
from engine.resilience.rules.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.resilience.config import ResilienceConfig
    from engine.resilience.effects import Effect
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Event, Place
    from engine.resilience.recovery_point import RecoveryPoint

__all__ = ["Driver", "Phase"]

_AGAIN_S = 2.0  # after which an order that was not carried out is given again
_BETTER_WORD_S = 1.5  # who lost a peer is not the cause: who is, may be told meanwhile


class Driver:
    """Drives one job. Its parts are named by class, so that a simulation can run it with others.

    Args:
        generation: greater than that of every driver of this job before.
        ranks_per_host: of each of ``config.hosts`` hosts.
        last_step: the job is done after it.
        on_disk: the step of the newest whole checkpoint there is; 0: none.
        past: what :meth:`to_json` of the driver before said last, if there was one.
    """

    course_class = Course
    ledger_class = Ledger
    roster_class = Roster
    past_class = Past
    loop_class = CrashLoop
    watch_class = Watch

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
        self.course = self.course_class()
        self.ledger = self.ledger_class(begun_s=now)
        self.outbox = Outbox()
        self.roster = self.roster_class(config, generation, self.outbox)
        self.past = self.past_class(config.hosts * ranks_per_host, on_disk, self.outbox)
        self._loop = self.loop_class(config.loop_after)
        self._bad_steps: dict[str, list[Any]] = {}
        self._norms: deque[float] = deque(maxlen=REMEMBERED)
        self._watch: Watch | None = None
        self._end: Finish | None = None
        self._end_told = False
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
            self._tell_end_again()
            if isinstance(event, Hello | Beat):  # it has missed that the job is over
                self._release(event.host)
            return self.outbox.take()
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event, now)
        self._go_on(now)
        return self.outbox.take()

    # -- what executors report ---

    def _greet(self, hello: Hello, now: float) -> None:
        if hello.generation > self.generation:
            self._end_as("replaced", "a newer driver has taken over", now)
            return
        host = self.roster[hello.host]
        if not host.takes(hello.incarnation):
            return
        self._welcome(host, hello, now)
        self.outbox.tell(host.name, Adopt(generation=self.generation))
        self._reconcile(host, now)

    def _welcome(self, host: Host, hello: Hello, now: float) -> None:
        anew = host.incarnation not in ("", hello.incarnation)
        host.greet(hello, now)
        self.outbox.note("host.joined", host=host.name, hardware=hello.hardware, slots=hello.slots)
        if anew:  # its ranks went with the executor before
            host.stop(self.attempt)
            if self.course.has(host.name) and host.name not in self.course.well:
                self._blame(Cause.EXECUTOR_LOST, host.name, "it was started anew", now)

    def _hear(self, beat: Beat, now: float) -> None:
        host = self.roster.get(beat.host)
        if host is None:
            return
        here = self._recognise(host, beat, now)
        new_copies = here and host.hear(beat, now)
        if self.course.has(host.name):
            if here and beat.attempt == self.attempt:
                self._infer_beginning(beat, now)
            if (beat.done_attempt or beat.attempt) == self.attempt:  # true also of a replaced one
                self._listen(self.course.fresh(beat), now)
        if new_copies:
            self.past.acknowledge(self.roster.here, self.places)
        if here:
            self._reconcile(host, now)

    def _recognise(self, host: Host, beat: Beat, now: float) -> bool:
        """Whether it is the host's executor that is heard: it may be one that was replaced, or one
        that has not said hello yet."""
        hello = host.hellos.get(beat.incarnation)
        if hello is None or not host.takes(beat.incarnation):
            return False
        if host.incarnation != beat.incarnation:
            self._welcome(host, hello, now)
        return True

    def _listen(self, beat: Beat, now: float) -> None:
        """A heartbeat of the attempt; one rank's steps speak for all: they step together.

        Numbers of steps may come when the attempt is being ended already, and still tell which
        states cannot be trusted.
        """
        if self.ledger.doing is None:
            self.ledger.advance(now)
            for done in beat.done:
                if done.rank == 0:
                    self.ledger.step(done)
        if self._watch is None and beat.done:
            self._begin_watch(now)
        if self._watch is not None:
            for incident in self._watch.beat(beat, now):
                self._find(incident, now)

    def _infer_beginning(self, beat: Beat, now: float) -> None:
        """The word that ranks have begun may be lost; a step of one shows that all have."""
        for host in self.course.hosts if beat.done else (beat.host,):
            if beat.done or self.course.begun_by(beat):
                self._note_beginning(Began(host=host, attempt=self.attempt), now)

    def _note_beginning(self, began: Began, now: float) -> None:
        waiting = self._watch is None and self.phase in (Phase.STARTING, Phase.ADOPTING)
        if began.attempt != self.attempt or not waiting:
            return
        if self.course.note_beginning(began.host):
            self.ledger.train(now)
            self._begin_watch(now)
            if self.phase is Phase.STARTING:
                self._run(now)

    def _note_end(self, ended: Ended, now: float) -> None:
        host = self.roster.get(ended.host)
        if host is not None:
            host.stop(ended.attempt)
        if ended.attempt != self.attempt or self.phase not in WITH_RANKS:
            return
        if not ended.well:
            self._fail(ended, now)
        elif self.course.note_good_end(ended, now):
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
        if host is not None:
            host.stop(stopped.attempt)

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
            host.usable(self.ranks_per_host) and not self.course.has(host.name)
            for host in self.roster
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
            self._enter(Phase.STOPPING, self._restart, now)
        elif asked.wish is Wish.RESTART:
            self._find(Incident(cause=Cause.PERSON, detail=asked.why or "restart"), now)
        elif asked.wish is Wish.EVICT:
            why = asked.why or "evicted by a person"
            self.roster.block(self.roster[asked.host], why, now, for_ever=True)

    # -- what follows from the time ---

    def _go_on(self, now: float) -> None:
        if self.phase is Phase.OVER:
            return
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
        for name in self.course.hosts:
            host = self.roster[name]
            if host.blocked:
                self._blame(Cause.PERSON, name, host.why_blocked, now)
                return
            gone = not (host.here or name in self.course.well)
            if gone and now - host.gone_s > self.config.reconnect_s:
                self._blame(Cause.EXECUTOR_LOST, name, "its connection has ended", now)
                return
        self._look_for_delay(now)

    def _look_for_delay(self, now: float) -> None:
        well = self.course.well
        late = now - min(well.values(), default=now)
        if self.phase is Phase.STARTING:
            late = now - self.since_s
        if late > self.config.start_s:
            detail = f"nothing within {self.config.start_s:g} s"
            behind = self.course.behind
            self._find(Incident(cause=Cause.START, hosts=behind, detail=detail), now)
        elif self._watch is not None and not well:
            for incident in self._watch.look(now):
                self._find(incident, now)

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
        self.roster.suspect(incident, now)
        if self.config.check == "always":
            self.roster.suspect_all(self.course.hosts, str(incident.cause))
        if why := self._loop.add(incident, self.ledger.best):
            self._over("failed", why, now)
            return
        self._stop_ranks()
        self._enter(Phase.STOPPING, Spent.RESTART, now)

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

    @property
    def _restart(self) -> Spent:
        return Spent.RESTART if self.past.lineage.starts else Spent.START_UP

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

    def _begin_watch(self, now: float) -> None:
        attempt = Attempt(
            places=self.places,
            step=self.past.lineage.starts[self.attempt],
            begun_s=now,
            config=self.config,
        )
        self._watch = self.watch_class(attempt, self._bad_steps, self._norms)

    # -- taking over from a driver before ---

    def _adopt(self, now: float) -> None:
        """Ranks that go on are left to; the ledger's account of them is still open."""
        hosts = [self.roster[h] for h in self.course.hosts if h not in self.course.well]
        missing = tuple(host.name for host in hosts if host.running != self.attempt)
        lost = any(host.stopped >= self.attempt for host in hosts)
        if missing and not lost and now - self.since_s <= self.config.adopt_s:
            return
        if missing:
            detail = "not found by the new driver with its ranks"
            self._find(Incident(cause=Cause.EXECUTOR_LOST, hosts=missing, detail=detail), now)
            return
        self.phase, self.since_s = Phase.STARTING, now
        if self._watch is not None:
            self._run(now)

    def _take_over(self, past: Mapping[str, Any], now: float) -> None:
        self.course = self.course_class.from_json(past["course"], self.generation)
        self.past.take_over(past["past"])
        self.roster.take_over(past["hosts"])
        self.ledger = self.ledger_class.from_json(past["ledger"])
        self._bad_steps = dict(past["bad_steps"])
        self._norms.extend(past["norms"])
        self._loop.step, self._loop.signatures = past["loop"][0], list(past["loop"][1])
        for name in self.course.hosts:
            self.roster[name].gone_s = now
        self.phase = Phase(past["phase"])
        if past["end"] is not None:
            self._end = Finish(status=past["end"][0], reason=past["end"][1])
        if self.phase in WITH_RANKS:
            self.phase = Phase.ADOPTING
            if self.ledger.doing is None:
                self._begin_watch(now)

    def to_json(self) -> dict[str, Any]:
        """What the next driver must know; to be kept before the effects are carried out."""
        return {
            "generation": self.generation,
            "phase": str(self.phase),
            "course": self.course.to_json(),
            "past": self.past.to_json(),
            "hosts": self.roster.to_json(),
            "ledger": self.ledger.to_json(),
            "bad_steps": self._bad_steps,
            "norms": list(self._norms),
            "loop": [self._loop.step, self._loop.signatures],
            "end": self._end and [self._end.status, self._end.reason],
        }

    # -- small things ---

    @property
    def attempt(self) -> int:
        """The newest attempt; 0: there was none yet."""
        return self.course.attempt

    @property
    def attempts(self) -> int:
        """How many there were; their numbers have gaps where a driver took over."""
        return len(self.past.lineage.starts)

    @property
    def places(self) -> tuple[Place, ...]:
        """Of its ranks."""
        return self.course.places

    def _reconcile(self, host: Host, now: float) -> None:
        """What a host does against what it should do."""
        if self.phase is Phase.OVER:
            return
        mine = self.course.has(host.name)
        wanted = self.attempt if mine and self.phase in WITH_RANKS else 0
        if host.running not in (0, wanted):
            self._forbid(host, host.running)
        elif mine and not wanted and host.stopped < self.attempt:
            self._forbid(host, self.attempt)
        elif wanted and not host.running and host.stopped < wanted:
            attempt, when = host.ordered  # it may have ended them, and the word of it is lost
            if self.course.order and (attempt != wanted or now - when > _AGAIN_S):
                self.outbox.tell(host.name, self.course.order)
                host.ordered = (wanted, now)

    def _forbid(self, host: Host, attempt: int) -> None:
        self.outbox.tell(host.name, Stop(generation=self.generation, attempt=attempt))

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

    def _enter(self, phase: Phase, spent: Spent, now: float) -> None:
        self.phase, self.since_s = phase, now
        self.ledger.turn(spent, now)
        self.outbox.note("phase", phase=str(phase), attempt=self.attempt)
