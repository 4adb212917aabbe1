"""An attached look from its beginning to its end: find, look, record, conclude, keep."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.samplers.call_roots import roots_of
from collectors.samplers.stacks import dump
from opsuite.attaching.look import Look, look_at
from opsuite.attaching.motion import Motion, RankMotion, motion_of
from opsuite.attaching.permissions import (
    Cost,
    Tracer,
    missing_environments,
    missing_flight_recorder,
    missing_io,
    missing_stacks,
    missing_tool,
)
from opsuite.attaching.process import has_torch, is_hidden, look_up, own_line
from opsuite.attaching.targets import Targets, find_targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from opsuite.attaching.recording import Recording

_LEAST_LOOKS = 3
_PERIOD_S = 0.5
_COST = 4.0  # a look of 200 ms is followed by 800 ms without
_KEPT_EVERY_S = 2.0  # stacks; what is used is kept of every look
_DOUBTFUL_FOR_S = 3.0
_DOUBTFUL_PERIOD_S = 0.03
_ROOTS_S = 5.0
_STARTS_OTHERS = ("torch/multiprocessing/spawn.py", "/multiprocessing/process.py")


@dataclass(kw_only=True)
class Gathered:
    """What was seen so far.

    Attributes:
        looks: the oldest first.
        costs: what could not be seen, and why.
        ended: ranks that ended while they were looked at.
        roots: by process, of the collectives in which they are, such as "src 0".
    """

    targets: Targets
    looks: list[Look] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    roots: Mapping[int, str] = field(default_factory=dict)

    @property
    def whole_look(self) -> Look:
        """The last look at all ranks."""
        return next(look for look in reversed(self.looks) if look.whole)

    def motions(self) -> list[RankMotion]:
        """What each rank did, in their order."""
        return [motion_of(target.rank, self.looks) for target in self.targets.ranks]


def find(pids: Sequence[int]) -> Targets:
    """The ranks among these processes and below them.

    Raises:
        Unreachable: there is none; UsageError: they are of several jobs.
    """
    return find_targets(
        pids,
        look_up(pids),
        is_hidden=is_hidden,
        waits_for_children=_waits_for_children,
        has_torch=has_torch,
        ours=own_line(),
    )


def gather(
    recording: Recording,
    gathered: Gathered,
    for_s: float,
    *,
    tick: Callable[[], None],
    narrate: Callable[[str], None],
) -> None:
    """Look again and again for ``for_s`` seconds, and record what is seen.

    Args:
        tick: called between the looks, to read what else is to be read.
        narrate: told once of each thing that is missing, and of ranks that end.
    """
    ends_s = time.monotonic() + for_s
    pause_s = 0.0
    kept_s = -_KEPT_EVERY_S
    while True:
        began_s = time.monotonic()
        last = began_s + pause_s >= ends_s and len(gathered.looks) >= _LEAST_LOOKS - 1
        look = look_at(gathered.targets.ranks, children=True)
        gathered.looks.append(look)
        keep = last or began_s - kept_s >= _KEPT_EVERY_S
        kept_s = began_s if keep else kept_s
        recording.keep(look, stacks=keep)
        _tell_missing(gathered, narrate)
        _tell_ended(recording, gathered, narrate)
        tick()
        if last or not any(sighting.alive for sighting in look.ranks.values()):
            break
        pause_s = max(_PERIOD_S, (_COST + 1) * (time.monotonic() - began_s))
        time.sleep(max(0.0, began_s + pause_s - time.monotonic()))
    _look_closer(gathered)
    seen = [one.stacks for one in gathered.whole_look.ranks.values() if one.stacks is not None]
    gathered.roots = roots_of(seen, within_s=_ROOTS_S)


def _look_closer(gathered: Gathered) -> None:
    """Look at ranks that may be in slow steps as often as possible, until each has moved."""
    ends_s = time.monotonic() + _DOUBTFUL_FOR_S
    while time.monotonic() < ends_s:
        ranks = [one.rank for one in gathered.motions() if one.motion is Motion.DOUBTFUL]
        chosen = [target for target in gathered.targets.ranks if target.rank in ranks]
        if not chosen:
            return
        gathered.looks.append(look_at(chosen, children=False))
        time.sleep(_DOUBTFUL_PERIOD_S)


def _tell_missing(gathered: Gathered, narrate: Callable[[str], None]) -> None:
    """What this look could not see, and no look before it either."""
    look, targets, tracer = gathered.looks[-1], gathered.targets.ranks, Tracer.here()
    stacks = {r: one.stacks.error for r, one in look.ranks.items() if one.stacks is not None}
    denied = [r for r, one in look.ranks.items() if one.vitals and one.vitals.read_bytes is None]
    missing = [
        *(missing_tool() or missing_stacks(stacks, targets)),
        *missing_environments(targets, tracer),
        *missing_io(denied, targets, tracer),
        *missing_flight_recorder(targets),
    ]
    for cost in missing:
        if cost not in gathered.costs:
            gathered.costs.append(cost)
            narrate(f"missing: {cost}")


def _tell_ended(recording: Recording, gathered: Gathered, narrate: Callable[[str], None]) -> None:
    for rank, sighting in gathered.looks[-1].ranks.items():
        if not sighting.alive and rank not in gathered.ended:
            gathered.ended.append(rank)
            recording.tell(rank, "rank.ended", {"while": "attached"})
            narrate(f"rank {rank} ended while attached")


def _waits_for_children(pid: int) -> bool:
    """Whether a process only waits for those that it has started."""
    try:
        mains = [thread for thread in dump(pid) if thread.main]
    except OpsuiteError:
        return False  # told when its stack is read again, as a rank's
    frames = mains[0].frames if mains else ()
    return any(
        frame.function.rpartition(".")[2] == "join" and frame.path.endswith(_STARTS_OTHERS)
        for frame in frames
    )
