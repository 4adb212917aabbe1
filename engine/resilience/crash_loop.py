"""A job that fails again and again and gets nowhere must not be started for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.resilience.cause import Cause

if TYPE_CHECKING:
    from engine.resilience.cause import Incident

_OF_ANY_KIND = 4  # times as many faults of different kinds


class CrashLoop:
    """Counts faults without progress.

    Args:
        after: faults of one kind that are a loop.
    """

    def __init__(self, after: int) -> None:
        self._after = after
        self.step = -1
        self.signatures: list[list[object]] = []

    @property
    def goes_round(self) -> bool:
        """Whether the last fault was not the first without progress."""
        return len(self.signatures) > 1

    def add(self, incident: Incident, step: int) -> str:
        """A fault, when ``step`` was the best that the job had ever done; gives why the job should
        end, or ""."""
        if incident.cause is Cause.PERSON:
            return ""
        if step > self.step:
            self.step = step
            self.signatures.clear()
        cause, whose = incident.signature
        self.signatures.append([cause, list(whose)])
        same = self.signatures.count(self.signatures[-1])
        if same >= self._after or len(self.signatures) >= _OF_ANY_KIND * self._after:
            return (
                f"crash loop: {len(self.signatures)} faults without progress beyond step"
                f" {self.step}, the last: {incident.cause}: {incident.detail}"
            )
        return ""
