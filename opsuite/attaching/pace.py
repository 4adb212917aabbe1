"""Of a job that moves, the rank that the others wait for, where the looks show one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from opsuite.attaching.evidence import places_of, stacks_of
from playbooks.hang.place import Doing
from playbooks.hang.sources import with_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opsuite.attaching.session import Gathered
    from playbooks.hang.place import Place

_FEWEST_LOOKS = 8
_LESS = 0.4  # of the looks: so much less than the others it must be seen waiting


def slowest(gathered: Gathered) -> str:
    """Who hardly ever waits in a collective while the others mostly do; "": nobody stands out."""
    seen: dict[int, list[Place]] = {target.rank: [] for target in gathered.targets.ranks}
    for look in gathered.looks:
        if look.whole:
            for rank, place in places_of(with_sources(stacks_of(look, {}))).items():
                seen[rank].append(place)
    if len(seen) < 2 or min(map(len, seen.values())) < _FEWEST_LOOKS:
        return ""
    waits = {rank: _share_waiting(places) for rank, places in seen.items()}
    slow = min(waits, key=lambda rank: waits[rank])
    others = min(share for rank, share in waits.items() if rank != slow)
    if others - waits[slow] < _LESS:
        return ""
    counted = Counter(p.line for p in seen[slow] if p.doing is not Doing.COLLECTIVE and p.line)
    at = f", mostly at {counted.most_common(1)[0][0]}" if counted else ""
    return (
        f"rank {slow} is the slowest: in {waits[slow]:.0%} of the looks it waited in a collective, "
        f"the others in at least {others:.0%}{at}"
    )


def _share_waiting(places: Sequence[Place]) -> float:
    return sum(place.doing is Doing.COLLECTIVE for place in places) / len(places)
