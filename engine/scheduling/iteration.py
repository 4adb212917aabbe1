"""What a scheduler decides: the work of one iteration, and what is moved beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from engine.scheduling.job import Job


class Work(NamedTuple):
    """A job's part in an iteration.

    A tuple, since a simulation makes millions: a frozen dataclass takes four times as long.

    Attributes:
        first: tokens that are cached before.
        tokens: how many are computed now, from ``first`` on: 1 of a decode, a chunk of a prefill.
        gives: whether a token comes out: not of a chunk before the last.
    """

    job: Job
    first: int
    tokens: int
    gives: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """Work in the order of priority.

    Attributes:
        drop: jobs whose keys and values are given up at once, before the work.
        offload, upload: jobs whose blocks begin to move now; who moves them says when they have
            (:meth:`~engine.scheduling.scheduler.Scheduler.moved`). The work does not wait for them
            unless ``waits``: then it begins when they have all moved (reactive swapping), and
            what is uploaded, or computed, may take blocks that are offloaded: offloads go first.
    """

    work: tuple[Work, ...] = ()
    drop: tuple[Job, ...] = ()
    offload: tuple[Job, ...] = ()
    upload: tuple[Job, ...] = ()
    waits: bool = False

    @property
    def idle(self) -> bool:
        """Whether nothing is computed."""
        return not self.work
