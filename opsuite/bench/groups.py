"""What a store has to do while ranks make their groups: simulated ranks, a real TCPStore."""

from __future__ import annotations

from statistics import median

from opsuite.bench.result import Row
from opsuite.output import narrate

_MESHES = ((2, 4, 8), (4, 8, 8), (8, 8, 8), (8, 16, 8), (8, 32, 8))
_MESHES_UNORDERED = ((2, 4, 8), (2, 8, 8), (4, 8, 8))
MOST_GROWTH = 1.1


def measure(rounds: int) -> list[Row]:
    """Operations of the store a rank, from 64 to 2,048 ranks; and the same in torch's order."""
    from engine.groups.simulated_startup import simulate

    rows: list[Row] = []
    first = 0.0
    for ordered, meshes in ((True, _MESHES), (False, _MESHES_UNORDERED)):
        for mesh in meshes:
            found = [simulate(*mesh, ordered=ordered) for _ in range(rounds)]
            ranks = found[0].ranks
            narrate(f"{ranks} ranks ...")
            each = median(start.operations / ranks for start in found)
            first = first or each
            rows.append(
                Row(
                    name=f"{ranks} ranks (pp, dp, tp = {mesh}), "
                    + ("own groups, in order" if ordered else "every rank makes every group"),
                    value=each,
                    unit="operations of the store a rank",
                    rounds=rounds,
                    target=f"<= {MOST_GROWTH} x that of 64 ranks: linear" if ordered else "",
                    met=each <= MOST_GROWTH * first if ordered else None,
                    note=f"ready after {median(start.seconds for start in found):.2f} s",
                )
            )
    return rows
