"""The interface of policies: in which order jobs deserve to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.scheduling.job import Job
    from engine.scheduling.limits import Limits


class Policy(Protocol):
    """Events in, an order out. ``now`` is in seconds of a clock that the caller owns and never goes
    back. Deterministic: the same calls give the same order.

    For every job to end: one that ran has no worse a rank before it has given its next token. Two
    that have room for one would else drive each other out, in the middle of prefills, for ever.
    """

    name: str

    def within(self, limits: Limits) -> None:
        """What the engine can hold; before anything else."""
        ...

    def arrive(self, job: Job, now: float) -> None:
        """A new job wants to run."""
        ...

    def ran(self, jobs: Sequence[Job], seconds: float, now: float) -> None:
        """An iteration that took ``seconds`` has just ended, and these jobs were in it. Their
        ``generated`` and ``cached`` are counted already; those that ended leave after this.
        Or several iterations, where :meth:`steady_s` and :meth:`steady_iterations` allow it."""
        ...

    def leave(self, job: Job, now: float, *, finished: bool) -> None:
        """A job has come to its end (``finished``), or was withdrawn."""
        ...

    def order(self, now: float) -> Iterable[Job]:
        """All jobs, whoever deserves to run most first. Lazy: callers stop when a batch is full."""
        ...

    def rank(self, job: Job) -> Any:  # noqa: ANN401 - any tuple that sorts
        """What ``order`` sorts by, as of its last call: less runs first."""
        ...

    def next_scheduled_s(self, job: Job, now: float, max_batch: int) -> float:
        """Estimated seconds until a job that does not run now is scheduled (FastServe's ENST)."""
        ...

    def steady_s(self, running: Sequence[Job], now: float) -> float:
        """For how long from now the order of all jobs surely stays as it is, if just these run, no
        job arrives and none leaves: 0.0 where that is not known. Simulators skip decisions so."""
        ...

    def steady_iterations(self, running: Sequence[Job]) -> int:
        """The same counted in iterations that end, each of which gives each of these jobs a token:
        both must hold. Large where only time changes the order."""
        ...
