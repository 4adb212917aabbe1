"""A step that does not end: who is waited for, and what that rank does instead.

A rank in a collective waits for others, unless its process is stopped. Of the ranks that do not
wait, those that the board and the kernel show as stopped, idle or spinning are the ones that never
came. Where all wait, a host whose link is slow just then is what holds them up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.resilience.messages import Beat, RankState
    from engine.resilience.rules.rule import Attempt, Sight

_BUSY = {"compile": 300.0, "checkpoint": 60.0, "evaluation": 600.0}  # seconds that are no hang
_BY_PROCESS = {
    "T": Cause.STOPPED,
    "t": Cause.STOPPED,
    "D": Cause.STORAGE,
    "R": Cause.LOOP,
    "S": Cause.DEADLOCK,
}


class Overdue:
    """No rank has ended a step for many times as long as one takes."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._told = False
        self._busy_s = 0.0  # when a rank was last seen busy with what takes longer than a step

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: it is time that tells."""
        if any(state.busy for state in beat.ranks):
            self._busy_s = now
        return ()

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        due_s = max(sight.moved_s, self._attempt.begun_s)
        if not any(state.busy for state in sight.ranks.values()):
            due_s = max(due_s, self._busy_s)  # since what was in the way of a step is over
        since = now - due_s
        if self._told or since <= self._patience_s(sight):
            return ()
        self._told = True
        states = sight.ranks.values()
        missing = [s for s in states if _is_stopped(s)] or [s for s in states if not s.waits_in]
        return (self._incident(missing, sight, since),)

    def _patience_s(self, sight: Sight) -> float:
        config = self._attempt.config
        patience = max(config.overdue_least_s, config.overdue_factor * sight.usual_s)
        if not sight.usual_s:  # the first step may compile, and allocates
            patience = max(patience, config.start_s / 4)
        busy = (_BUSY.get(state.busy, 0.0) for state in sight.ranks.values())
        return max(patience, *busy, 0.0)

    def _incident(self, missing: Sequence[RankState], sight: Sight, since: float) -> Incident:
        ranks = tuple(sorted(state.rank for state in missing))
        if not missing or len(missing) == len(sight.ranks) > 1:
            return _all_alike(sight, since)
        causes = {_BY_PROCESS.get(state.process, Cause.HANG) for state in missing}
        cause = causes.pop() if len(causes) == 1 else Cause.HANG
        waited = next((s.waits_in for s in sight.ranks.values() if s.waits_in), "the step's end")
        return Incident(
            cause=cause,
            ranks=ranks,
            hosts=self._attempt.hosts_of(ranks),
            detail=f"rank {', '.join(map(str, ranks))} never came to {waited}, for {since:.1f} s",
        )


def _is_stopped(state: RankState) -> bool:
    return _BY_PROCESS.get(state.process) is Cause.STOPPED


def _all_alike(sight: Sight, since: float) -> Incident:
    if sight.slow_links:
        hosts = tuple(sorted(sight.slow_links))
        detail = f"no step for {since:.1f} s, while the link of {', '.join(hosts)} is slow"
        return Incident(cause=Cause.LINK, hosts=hosts, detail=detail)
    detail = f"no step for {since:.1f} s, and no rank stands out"
    return Incident(cause=Cause.HANG, detail=detail)
