"""What a job remembers of its past, with something wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.resilience.crash_loop import CrashLoop
from engine.resilience.driver import Driver
from engine.resilience.ledger import Ledger, Spent
from engine.resilience.past import Past
from engine.resilience.recovery_point import Lineage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.resilience.cause import Incident
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Copy, Place


class _AcknowledgesOwnCopies(Past):
    def acknowledge(self, host: Host, roster: Iterable[Host], places: Sequence[Place]) -> None:
        self.acknowledged = max([self.acknowledged, *(copy.step for copy in host.copies)])


class AcknowledgesOwnCopies(Driver):
    """A step is acknowledged before the peer has confirmed its copy."""

    past_class = _AcknowledgesOwnCopies


class _AnyTimeline(Lineage):
    def holds(self, copy: Copy) -> bool:
        return copy.attempt in self.starts


class _PastOfAnyTimeline(Past):
    lineage_class = _AnyTimeline


class MixesTimelines(Driver):
    """Copies of what was given up are taken like any other."""

    past_class = _PastOfAnyTimeline


class _Trusting(Past):
    def distrust_after(self, step: int) -> None:
        return


class TrustsAnyState(Driver):
    """After a numeric fault the job goes on from the newest state."""

    past_class = _Trusting


class _TrustsOneMore(Past):
    def distrust_after(self, step: int) -> None:
        super().distrust_after(step + 1)


class TrustsOneMore(Driver):
    """After a numeric fault the state of that very step is still trusted."""

    past_class = _TrustsOneMore


class _NeverAsks(Past):
    def saved(self, step: int) -> None:
        super().saved(step)
        self._disk_checked = True

    def go_on(self, attempt: int, step: int) -> None:
        super().go_on(attempt, step)
        self._disk_checked = True


class TrustsDisk(Driver):
    """The newest checkpoint is taken without looking whether it is whole."""

    past_class = _NeverAsks


class _AsksForAny(Past):
    def _ask(self, at_most: int) -> None:
        super()._ask(10**9)


class TakesAnyCheckpoint(Driver):
    """The newest checkpoint is taken even if it is of what was given up."""

    past_class = _AsksForAny


class _ForgetsLimit(Past):
    def take_over(self, past: Mapping[str, Any]) -> None:
        super().take_over(past)
        self._limit = None


class ForgetsLimit(Driver):
    """A new driver does not know which states cannot be trusted."""

    past_class = _ForgetsLimit


class _Unlooping(CrashLoop):
    def add(self, incident: Incident, step: int) -> str:
        return ""


class NeverLoops(Driver):
    """Faults without progress are not counted."""

    loop_class = _Unlooping


class _LoopsLate(CrashLoop):
    def __init__(self, after: int) -> None:
        super().__init__(after + 1)


class LoopsLate(Driver):
    """A crash loop is ended one fault too late."""

    loop_class = _LoopsLate


class _LosesRestart(Ledger):
    def _spend(self, cause: Spent, seconds: float) -> None:
        if cause is not Spent.RESTART:
            super()._spend(cause, seconds)


class LosesRestart(Driver):
    """The ledger does not account restarts."""

    ledger_class = _LosesRestart


class _CountsTwice(Ledger):
    def advance(self, now: float) -> None:
        before = self.now_s
        super().advance(now)
        if self.doing is Spent.START_UP:
            self._spend(Spent.IDLE, now - before)


class CountsTwice(Driver):
    """The ledger accounts the start as two things."""

    ledger_class = _CountsTwice
