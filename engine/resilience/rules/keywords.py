"""Log lines that tell of trouble (MegaScale, section 4.2: an alert, and no restart)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.resilience.messages import Beat
    from engine.resilience.rules.rule import Attempt, Sight


class Keywords:
    """The first line of a host with each of the words; executors send only lines that have one."""

    def __init__(self, attempt: Attempt) -> None:
        self._words = tuple(word.lower() for word in attempt.config.keywords)
        self._told: set[tuple[str, str]] = set()

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        found = []
        for line in beat.lines:
            word = next((word for word in self._words if word in line.lower()), None)
            if word is not None and (beat.host, word) not in self._told:
                self._told.add((beat.host, word))
                found.append(
                    Incident(
                        cause=Cause.KEYWORD, recover=False, hosts=(beat.host,), detail=line[:500]
                    )
                )
        return found

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: lines come with heartbeats."""
        return ()
