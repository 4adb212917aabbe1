"""From the first signal that asks a command to end, to the last resort."""

from __future__ import annotations

from enum import Enum, auto

HINT_S = 10.0
"""From the first signal to the hint that a further one ends everything."""
LAST_S = 5.0
"""From SIGTERM to SIGKILL."""


class Resort(Enum):
    """What is to be done."""

    HINT = auto()
    TERMINATE = auto()
    KILL = auto()


class Stopping:
    """Decides when the user's patience has ended; the clock is passed in, in seconds.

    Programs may take several signals (a debugger does), so only one after the hint ends them all.

    Attributes:
        asked_by: name of the first signal; "": nobody has asked.
    """

    def __init__(self) -> None:
        self.asked_by = ""
        self._asked_s = 0.0
        self._hinted = False
        self._terminated_s: float | None = None

    def asked(self, name: str, now_s: float) -> Resort | None:
        """Somebody asks for the end."""
        if not self.asked_by:
            self.asked_by, self._asked_s = name, now_s
        if not self._hinted or self._terminated_s is not None:
            return None
        self._terminated_s = now_s
        return Resort.TERMINATE

    def look(self, now_s: float) -> Resort | None:
        """What is due while the command still runs."""
        if self._terminated_s is not None:
            return Resort.KILL if now_s - self._terminated_s >= LAST_S else None
        if not self.asked_by or self._hinted or now_s - self._asked_s < HINT_S:
            return None
        self._hinted = True
        return Resort.HINT
