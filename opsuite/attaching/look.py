"""One look at all ranks of this host: their stacks, and what they use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.samplers.stacks import read_stacks
from opsuite.attaching.process import still_there
from opsuite.attaching.vitals import Vitals, read_vitals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.samplers.thread_stack import ProcessStacks
    from opsuite.attaching.targets import Target


@dataclass(frozen=True, kw_only=True)
class Sighting:
    """A rank in one look.

    Attributes:
        vitals, stacks: None: the process has ended.
        children: stacks of the Python processes below it, where these were looked at.
    """

    rank: int
    vitals: Vitals | None
    stacks: ProcessStacks | None
    children: tuple[ProcessStacks, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self.vitals is not None


@dataclass(frozen=True, kw_only=True)
class Look:
    """Ranks at about one moment of the monotonic clock; ``whole``: all, and their children."""

    at_s: float
    whole: bool
    ranks: Mapping[int, Sighting]


def look_at(targets: Sequence[Target], *, children: bool) -> Look:
    """Look once, at what runs below the ranks too where ``children``."""
    at_s = time.monotonic()
    there = [target for target in targets if still_there(target.process)]
    found = read_stacks([target.pid for target in there], children=children)
    ranks = {target.rank: _see(target, found) for target in there}
    for target in targets:
        gone = Sighting(rank=target.rank, vitals=None, stacks=None)
        ranks.setdefault(target.rank, gone)
    return Look(at_s=at_s, whole=children, ranks=ranks)


def _see(target: Target, found: Sequence[ProcessStacks]) -> Sighting:
    own = next(one for one in found if one.pid == target.pid)
    below = tuple(one for one in found if one.rank_pid == target.pid and one is not own)
    vitals = read_vitals(target.pid, [one.pid for one in below])
    if vitals is None:
        return Sighting(rank=target.rank, vitals=None, stacks=None)
    return Sighting(rank=target.rank, vitals=vitals, stacks=own, children=below)
