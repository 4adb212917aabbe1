"""Whether a rank goes on, from several looks at it from outside."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.samplers.thread_stack import ProcessStacks
    from opsuite.attaching.look import Look, Sighting

    _Place = tuple[tuple[str, str, int], ...]

_BUSY = 0.2  # of a core: it computes
_IDLE = 0.003  # of a core, on its main thread: it sleeps, and wakes up only to look at the time
_READS = 200_000.0  # bytes a second, or writes: more than telemetry and logs
_LOADER = "loader worker"
_LOADING = "torch/utils/data/dataloader.py"
# Where somebody waits and asks now and then, the innermost frames change: they do not count.
_POLLING = (
    "/threading.py",
    "/queue.py",
    "/selectors.py",
    "/subprocess.py",
    "/socket.py",
    "/multiprocessing/",
    "/concurrent/futures/",
)


class Motion(StrEnum):
    """What a rank did between the first look and the last."""

    MOVING = "moving"
    STILL = "still"
    """Its main thread was at one place all the time, and asleep."""
    BUSY = "busy"
    """At one place all the time, and computing, reading or writing there: a long operation, or a
    loop without end."""
    DOUBTFUL = "doubtful"
    """At one place whenever one looked, but neither asleep nor busy: slow steps look like this."""
    UNREAD = "unread"
    """Its stack could not be read."""
    ENDED = "ended"


@dataclass(frozen=True, kw_only=True)
class RankMotion:
    """What one rank did.

    Attributes:
        looks: how many found its stack; ``for_s``: from the first of them to the last.
        cores: processor time over wall time, of all its threads, and where it waits for its
            loader, of the loader's workers too; None: not readable.
        main_cores: likewise of its main thread.
        stopped: whether a signal or a debugger had stopped it at the end.
    """

    rank: int
    motion: Motion
    looks: int
    for_s: float
    cores: float | None
    main_cores: float | None
    stopped: bool


def motion_of(rank: int, looks: Sequence[Look]) -> RankMotion:
    """What a rank did over these looks, the oldest first; looks without it are passed over."""
    seen = [(look.at_s, look.ranks[rank]) for look in looks if rank in look.ranks]
    read = [(at_s, one) for at_s, one in seen if one.stacks is not None and one.stacks.main]
    places = {_places(one) for _, one in read}
    for_s = read[-1][0] - read[0][0] if read else 0.0
    cores, main_cores = _share(seen, "cpu_s"), _share(seen, "main_cpu_s")
    if read and _waits_for_loader(read[-1][1]):
        cores = _share(seen, "family_cpu_s")
    last = seen[-1][1] if seen else None
    stopped = last is not None and last.vitals is not None and last.vitals.stopped
    if last is None or not last.alive:
        motion = Motion.ENDED
    elif stopped:
        motion = Motion.STILL
    elif not places:
        motion = Motion.UNREAD
    elif len(places) > 1:
        motion = Motion.MOVING
    else:
        reads = (_share(seen, "family_io_bytes") or 0.0) >= _READS
        motion = Motion.BUSY if reads else _motion_at_one_place(cores, main_cores)
    return RankMotion(
        rank=rank,
        motion=motion,
        looks=len(read),
        for_s=for_s,
        cores=cores,
        main_cores=main_cores,
        stopped=stopped,
    )


def _motion_at_one_place(cores: float | None, main_cores: float | None) -> Motion:
    if main_cores is None:  # not Linux: all threads together have to do
        return Motion.BUSY if (cores or 0.0) >= _BUSY else Motion.STILL
    if main_cores >= _BUSY or (cores or 0.0) >= _BUSY:
        return Motion.BUSY
    return Motion.STILL if main_cores < _IDLE else Motion.DOUBTFUL


def _share(seen: Sequence[tuple[float, Sighting]], name: str) -> float | None:
    """How much a second was used between the first and the last reading."""
    told = [
        (at_s, float(value))
        for at_s, one in seen
        if one.vitals is not None and (value := getattr(one.vitals, name)) is not None
    ]
    if len(told) < 2 or told[-1][0] <= told[0][0]:
        return None
    return (told[-1][1] - told[0][1]) / (told[-1][0] - told[0][0])


def _places(sighting: Sighting) -> tuple[_Place, ...]:
    """Where the main thread is; where it waits for its loader, where the loader's workers are."""
    shown = [sighting.stacks] if sighting.stacks else []
    if _waits_for_loader(sighting):
        shown += sorted(
            (one for one in sighting.children if one.child == _LOADER), key=lambda one: one.pid
        )
    return tuple(_place(stacks) for stacks in shown)


def _waits_for_loader(sighting: Sighting) -> bool:
    frames = sighting.stacks.main.frames if sighting.stacks and sighting.stacks.main else ()
    return any(frame.path.endswith(_LOADING) for frame in frames)


def _place(stacks: ProcessStacks) -> _Place:
    """Where a main thread is, without how it waits."""
    frames = stacks.main.frames if stacks.main else ()
    waits = 0
    while waits < len(frames) - 1 and any(part in frames[waits].path for part in _POLLING):
        waits += 1
    return tuple((frame.function, frame.path, frame.line) for frame in frames[waits:])
