"""A host that sends no heartbeat is lost (MegaScale, section 4.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.resilience.messages import Beat
    from engine.resilience.rules.rule import Attempt, Sight


class Silence:
    """Of each host that has ranks, a heartbeat must come within ``lost_after_s``."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: it is silence that tells."""
        return ()

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        limit = self._attempt.config.lost_after_s
        silent = [
            (now - sight.beats.get(place.host, self._attempt.begun_s), place.host)
            for place in self._attempt.places
        ]
        lost = [(since, host) for since, host in silent if since > limit]
        if not lost:
            return ()
        longest, _ = max(lost)
        incident = Incident(
            cause=Cause.HOST_LOST,
            hosts=tuple(host for _, host in lost),
            detail=f"no heartbeat for {longest:.1f} s",
        )
        return (incident,)
