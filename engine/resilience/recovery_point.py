"""The newest state that a job can go on from, among copies in memory and checkpoints on disk."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.resilience.messages import Resume

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from engine.resilience.messages import Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPoint:
    """Where to go on.

    Attributes:
        step: the last that is done.
        holders: for each rank the host that holds its copy; empty unless ``resume`` is memory.
        origin: the attempt in which these copies were made; 0 unless ``resume`` is memory.
    """

    step: int
    resume: Resume
    holders: tuple[str, ...] = ()
    origin: int = 0


class Lineage:
    """Which copies belong to what the job has kept of its past.

    An attempt that begins after step s gives up whatever earlier ones did beyond s: a copy of
    that must not be mixed with later ones, though its step be the same.
    """

    def __init__(self, starts: Iterable[tuple[int, int]] = ()) -> None:
        self.starts = dict(starts)

    def begin(self, attempt: int, step: int) -> None:
        """An attempt goes on after ``step``."""
        self.starts[attempt] = step

    def holds(self, copy: Copy) -> bool:
        """Whether the job's past contains it."""
        begun = self.starts.get(copy.attempt)
        return (
            begun is not None
            and copy.step > begun
            and all(
                copy.step <= step for attempt, step in self.starts.items() if attempt > copy.attempt
            )
        )


def newest_in_memory(
    held: Mapping[str, Iterable[Copy]],
    ranks: int,
    lineage: Lineage,
    at_most: int | None = None,
) -> RecoveryPoint | None:
    """The newest step of which every rank's copy is held by one of these hosts.

    Args:
        held: by host, in the order of preference.
        at_most: the last step that can be trusted; None: any.
    """
    holders: dict[int, dict[int, str]] = defaultdict(dict)
    origin: dict[int, int] = {}
    for host, copies in held.items():
        for copy in copies:
            trusted = at_most is None or copy.step <= at_most
            if trusted and lineage.holds(copy):
                holders[copy.step].setdefault(copy.rank, host)
                origin[copy.step] = copy.attempt  # of a step, one attempt's are held
    whole = [step for step, found in holders.items() if len(found) == ranks]
    if not whole:
        return None
    step = max(whole)
    chosen = tuple(holders[step][rank] for rank in range(ranks))
    return RecoveryPoint(step=step, resume=Resume.MEMORY, holders=chosen, origin=origin[step])


def newest(memory: RecoveryPoint | None, on_disk: int) -> RecoveryPoint:
    """Of both; memory where they are as new: it is quicker."""
    if memory is not None and memory.step >= on_disk:
        return memory
    if on_disk > 0:
        return RecoveryPoint(step=on_disk, resume=Resume.DISK)
    return RecoveryPoint(step=0, resume=Resume.NOTHING)
