"""Communication that was begun, and is waited for later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

from collectors.clock import now_ns
from collectors.level import Level, declare

if TYPE_CHECKING:
    from datetime import timedelta

    from engine.groups.group import Meeting

IN_FLIGHT = "in_flight."
"""Begins the names of spans from the beginning of a communication to the end of waiting for it."""
declare(Level.ALWAYS, IN_FLIGHT)


class Pending(dist.Work):
    """An operation of a group that goes on by itself until somebody waits for it.

    The time spent waiting is recorded as the collective, the whole as a span ``in_flight.<axis>``:
    what share of communication was hidden is one minus their ratio.

    Args:
        work: torch's handle.
        meeting: entered for as long as this rank waits.
    """

    def __init__(self, work: dist.Work, meeting: Meeting) -> None:
        super().__init__()
        self._work: dist.Work | None = work
        self._meeting = meeting
        self._begun_ns = now_ns()

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Until it has ended; the second time there is nothing to wait for."""
        if self._work is None:
            return True
        with self._meeting:
            self._work.wait() if timeout is None else self._work.wait(timeout)
        self._work = None  # and with it the tensors
        self._meeting.record(in_flight_since_ns=self._begun_ns)
        return True
