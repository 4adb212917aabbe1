"""First come, first served, with continuous batching (Orca, Yu et al. 2022).

A request joins at the first iteration that has room for it and runs until it ends. Room for all
its tokens is reserved when it joins, so it never has to be preempted; none overtakes another.
"""

from __future__ import annotations

from collections import OrderedDict

from engine.serving.policies.policy import Capacity, Iteration, Job


class FirstComeFirstServed:
    """A :class:`~engine.serving.policies.policy.Policy`.

    Args:
        capacity: a request that alone exceeds it never runs; callers refuse those.
    """

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._waiting: OrderedDict[int, Job] = OrderedDict()
        self._running: OrderedDict[int, Job] = OrderedDict()
        self._reserved_tokens = 0

    def arrived(self, job: Job, now: float) -> None:
        assert job.number not in self._waiting, "numbers are unique"
        assert job.number not in self._running, "numbers are unique"
        self._waiting[job.number] = job

    def token(self, number: int, now: float) -> None:
        """Nothing changes: the room is reserved already."""

    def finished(self, number: int, now: float) -> None:
        self._reserved_tokens -= _tokens(self._running.pop(number))

    def cancelled(self, number: int, now: float) -> None:
        if self._waiting.pop(number, None) is None:
            self.finished(number, now)

    def schedule(self, now: float) -> Iteration:
        decode = tuple(self._running)
        prefill = []
        while self._waiting and self._fits(next(iter(self._waiting.values()))):
            number, job = self._waiting.popitem(last=False)
            self._running[number] = job
            self._reserved_tokens += _tokens(job)
            prefill.append(number)
        return Iteration(prefill=tuple(prefill), decode=decode)

    def _fits(self, job: Job) -> bool:
        return (
            len(self._running) < self._capacity.max_batch
            and self._reserved_tokens + _tokens(job) <= self._capacity.kv_tokens
        )


def _tokens(job: Job) -> int:
    return job.prompt_tokens + job.max_tokens
