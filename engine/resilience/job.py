"""What a driver knows of its job, and leaves to the next one."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from engine.resilience.course import Course
from engine.resilience.crash_loop import CrashLoop
from engine.resilience.effects import Finish, Outbox
from engine.resilience.ledger import Ledger, Spent
from engine.resilience.past import Past
from engine.resilience.phase import WITH_RANKS, Phase
from engine.resilience.roster import Roster
from engine.resilience.rules.numbers import REMEMBERED
from engine.resilience.rules.rule import Attempt
from engine.resilience.rules.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.resilience.cause import Incident
    from engine.resilience.config import ResilienceConfig
    from engine.resilience.messages import Place


class Job:
    """The state of one; its parts are named by class, so that a simulation can run it with others.

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
        self._blamed_nobody = False  # for the last fault: ranks only lost a peer
        if past is not None:
            self._take_over(past, now)

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

    # -- for the next driver ---

    @property
    def promised(self) -> tuple[int, int]:
        """What was said to be safe; when it changes, that is to be kept at once."""
        return self.past.acknowledged, self.past.on_disk

    def to_json(self) -> dict[str, Any]:
        """What the next driver must know: to be kept before effects are carried out, when what is
        promised changes, and now and then, for the ledger."""
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

    # -- where it is ---

    def _enter(self, phase: Phase, spent: Spent, now: float) -> None:
        self.phase, self.since_s = phase, now
        self.ledger.turn(spent, now)
        self.outbox.note("phase", phase=str(phase), attempt=self.attempt)

    @property
    def _restart(self) -> Spent:
        return Spent.RESTART if self.past.lineage.starts else Spent.START_UP

    def _begin_watch(self, now: float) -> None:
        attempt = Attempt(
            places=self.places,
            step=self.past.lineage.starts[self.attempt],
            begun_s=now,
            config=self.config,
        )
        self._watch = self.watch_class(attempt, self._bad_steps, self._norms)
