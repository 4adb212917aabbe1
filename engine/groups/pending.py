"""Communication that was begun, and is waited for later."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.distributed as dist

if TYPE_CHECKING:
    from datetime import timedelta

    from engine.groups.group import Meeting


class Pending(dist.Work):
    """An operation of a group that goes on by itself until somebody waits for it.

    Args:
        work: torch's handle.
        meeting: entered for as long as this rank waits.
    """

    def __init__(self, work: dist.Work, meeting: Meeting) -> None:
        super().__init__()
        self._work: dist.Work | None = work
        self._meeting = meeting

    def wait(self, timeout: timedelta | None = None) -> bool:
        """Until it has ended; the second time there is nothing to wait for."""
        if self._work is None:
            return True
        with self._meeting:
            self._work.wait() if timeout is None else self._work.wait(timeout)
        self._work = None  # and with it the tensors
        self._meeting.record()
        return True
