"""What first come, first served would make of the jobs that come, beside the policy that runs."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits
    from engine.scheduling.profile import Profile


class _Run:
    """A job there; ``given`` tokens so far."""

    __slots__ = ("given", "job")

    def __init__(self, job: Job) -> None:
        self.job = job
        self.given = 0


class VirtualFcfs:
    """An engine that does not exist, of the same speed and size (as fair-sojourn protocols have it;
    Friedman and Henderson 2003): paged, and recomputing the newest where memory is short.

    It decodes as often at once as its batch stays the same, so a job costs a few steps.

    Args:
        length: tokens that a job has given at its end, or is expected to; whether it has ended may
            become known at any time.
    """

    def __init__(self, profile: Profile, limits: Limits, length: Callable[[Job], float]) -> None:
        self._profile = profile
        self._length = length
        self._max_batch = limits.max_batch
        self._room = limits.blocks * limits.block_tokens
        self._rounding = limits.block_tokens // 2  # of a job's last block, on average
        self._watermark = limits.watermark * limits.block_tokens
        self._constant_s = profile.prefill_s(1)
        self._queue: deque[_Run] = deque()
        self._running: list[_Run] = []
        self._tokens = 0  # that the running ones hold, blocks that are partly full included
        self._clock = 0.0

    def arrive(self, job: Job) -> None:
        """Now: :meth:`advance` comes first."""
        self._queue.append(_Run(job))

    def advance(self, now: float) -> list[tuple[Job, float]]:
        """Until now. Those that have ended there meanwhile, and when."""
        ended: list[tuple[Job, float]] = []
        while self._clock < now:
            self._admit()
            if not self._running:
                self._clock = now
                break
            self._decode(now)
            ended += self._end()
        return ended

    def finish(self, now: float) -> list[Job]:
        """No job is left in the real engine, so that none is here: both work whenever there is
        work. Those that have still been here, by what was expected of them."""
        left = [run.job for run in (*self._running, *self._queue)]
        self._queue.clear()
        self._running.clear()
        self._tokens, self._clock = 0, now
        return left

    def _admit(self) -> None:
        queue, running = self._queue, self._running
        while queue and len(running) < self._max_batch:
            run = queue[0]
            if self._length(run.job) <= run.given:  # withdrawn
                queue.popleft()
                continue
            known = run.job.prompt_tokens + run.given
            need = known + self._rounding
            if running and self._tokens + need + self._watermark > self._room:
                return
            shared = 0 if run.given else run.job.shared
            prefill_s = self._profile.prefill_s(known - shared, shared)
            self._clock += max(0.0, prefill_s - self._constant_s)
            self._tokens += need
            running.append(queue.popleft())

    def _decode(self, now: float) -> None:
        """As often as nobody ends, memory lasts, and it is not later than now."""
        running, length = self._running, self._length
        while len(running) > 1 and self._tokens + len(running) > self._room:
            last = running.pop()
            self._tokens -= last.job.prompt_tokens + last.given + self._rounding
            self._queue.appendleft(last)
        batch = len(running)
        context = self._tokens + (1 - self._rounding) * batch
        iterations = min(length(run.job) - run.given for run in running)
        until_now = (now - self._clock) / self._profile.decode_s(batch, context)
        if iterations > 0:
            times = math.ceil(min(iterations, until_now))
            times = max(1, min(times, (self._room - self._tokens) // batch))
            context += batch * (times - 1) // 2
            self._clock += times * self._profile.decode_s(batch, context)
            self._tokens += batch * times
            for run in running:
                run.given += times

    def _end(self) -> list[tuple[Job, float]]:
        going, ended = [], []
        for run in self._running:
            if run.given < self._length(run.job):
                going.append(run)
            else:
                self._tokens -= run.job.prompt_tokens + run.given + self._rounding
                ended.append((run.job, self._clock))
        self._running = going
        return ended
