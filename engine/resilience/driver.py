"""The driver of a job: one deterministic state machine, live and simulated alike.

It gathers executors, gives them ranks, watches these by rules, and after a fault stops all, has
suspects examined, leaves bad hosts out, takes others, and goes on from the newest good state
(MegaScale, section 4.1). It is told what happens by :meth:`Driver.handle` and says what is to be
done; it has no clock, no chance and no I/O of its own.

Orders follow from what hosts should do and say they do: one that was lost is given again when the
next heartbeat shows that it was not carried out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from engine.resilience.cause import Cause, Incident
from engine.resilience.failure import explain
from engine.resilience.ledger import Spent
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
    Saved,
    Slow,
    Stop,
    Stopped,
    Wish,
)
from engine.resilience.phase import WITH_RANKS, Phase
from engine.resilience.recovery import Recovery

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.resilience.config import ResilienceConfig
    from engine.resilience.effects import Effect
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Event

__all__ = ["Driver", "Phase"]

_AGAIN_S = 2.0  # after which an order that was not carried out is given again
_BETTER_WORD_S = 1.5  # who lost a peer is not the cause: who is, may be told meanwhile


class Driver(Recovery):
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
        super().__init__(
            config,
            generation=generation,
            ranks_per_host=ranks_per_host,
            last_step=last_step,
            now=now,
            on_disk=on_disk,
            past=past,
        )
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
        if self._brings_on(event):
            self._go_on(now)
        return self.outbox.take()

    def _brings_on(self, event: Event) -> bool:
        """Thousands of hosts say something every second: what time brings can wait for a tick."""
        if isinstance(event, Hello):
            return self.phase is Phase.GATHERING and len(self.roster.here) >= self.config.hosts
        return not isinstance(event, Beat)

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
            self.past.acknowledge(host, self.roster, self.places)
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
        if not self._waits_for_beginning:
            return
        for host in self.course.hosts if beat.done else (beat.host,):
            if beat.done or self.course.begun_by(beat):
                self._note_beginning(Began(host=host, attempt=self.attempt), now)

    def _note_beginning(self, began: Began, now: float) -> None:
        if began.attempt != self.attempt or not self._waits_for_beginning:
            return
        if self.course.note_beginning(began.host):
            self.ledger.train(now)
            self._begin_watch(now)
            if self.phase is Phase.STARTING:
                self._run(now)

    @property
    def _waits_for_beginning(self) -> bool:
        return self._watch is None and self.phase in (Phase.STARTING, Phase.ADOPTING)

    def _note_end(self, ended: Ended, now: float) -> None:
        host = self.roster.get(ended.host)
        if host is not None:
            host.stop(ended.attempt)
        if ended.attempt != self.attempt:
            return
        if self.phase is Phase.STOPPING and self._blamed_nobody:
            self._explain_late(ended, now)
        if self.phase not in WITH_RANKS:
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

    def _explain_late(self, ended: Ended, now: float) -> None:
        """Why ranks lost a peer is told by its host only after the wait for it was over."""
        if ended.well or ended.lost_peer:
            return
        self._blamed_nobody = False
        incident = replace(explain(ended), recover=False)
        self._note_incident(incident)
        self.roster.suspect(incident, now)

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

    # -- what others say ---

    def _note_slow(self, slow: Slow, now: float) -> None:
        recover = slow.certain and self._has_spare and self.phase is Phase.RUNNING
        incident = Incident(
            cause=Cause.SLOW,
            hosts=slow.hosts or self.course.hosts_of(slow.ranks),
            ranks=slow.ranks,
            detail=slow.detail,
            recover=recover,
        )
        self._find(incident, now)

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
