"""Ranks whose launcher was killed (``kill -9``): they must not train on, with nobody above them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from collectors.clock import process_lives_since

if TYPE_CHECKING:
    from collections.abc import Iterable

    from collectors.board import BoardFacts
    from opsuite.watchdog.voice import Voice

TERMINATE_S = 10.0
"""From the launcher's end to SIGTERM: its command was told, and may end them well."""
KILL_S = 40.0
"""From the launcher's end to SIGKILL: a checkpoint may be written meanwhile."""


class Orphans:
    """Ends the ranks of a launcher that has gone; the clock is passed in, in seconds.

    Args:
        launcher: process id of our parent, which ends us with SIGTERM when its command has ended;
            None: the ranks need none.
    """

    def __init__(self, launcher: int | None, voice: Voice) -> None:
        self._launcher = launcher
        self._voice = voice
        self._since_s: float | None = None
        self._told: set[tuple[int, signal.Signals]] = set()

    def look(self, ranks: Iterable[BoardFacts], now_s: float) -> None:
        """End what should not be there any more at the monotonic time ``now_s``."""
        if self._launcher is None or os.getppid() == self._launcher:
            return
        if self._since_s is None:
            self._since_s = now_s
        taken_s = now_s - self._since_s
        if taken_s >= TERMINATE_S:
            self._end(ranks, signal.SIGKILL if taken_s >= KILL_S else signal.SIGTERM)

    def _end(self, ranks: Iterable[BoardFacts], how: signal.Signals) -> None:
        for facts in ranks:
            if (facts.pid, how) not in self._told and _send(facts, how):
                self._told.add((facts.pid, how))
                self._voice.say(
                    [f"rank {facts.rank} (pid {facts.pid}) gets {how.name}: its launcher is gone"]
                )


def _send(facts: BoardFacts, how: signal.Signals) -> bool:
    """Whether that very process lived, and was told: its number may be another's by now."""
    try:
        process = os.pidfd_open(facts.pid)
    except OSError:
        return False
    try:
        if not process_lives_since(facts.pid, facts.since_ns):
            return False
        signal.pidfd_send_signal(process, how)
    except OSError:  # it has just ended, or is another user's
        return False
    finally:
        os.close(process)
    return True
