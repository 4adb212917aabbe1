"""How the ranks of a mesh come together: each makes its own groups, in one order, and no others.

Torch's meshes have every rank take part in the making of every group, with a barrier of all ranks
at the store each time: O(n^2) operations of the store by n ranks, which took MegaScale 17 minutes
at 2,048 GPUs until it ordered them (section 3.5). Here only a group's members meet, and all ranks
make their groups axis by axis in the order of :data:`AXES`: a rank that waits for its peers of one
axis waits for ranks that are still at that axis or an earlier one, so nobody waits in a circle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator

AXES = ("pp", "dp", "tp")
"""Of a mesh, the outermost first: tensor-parallel peers talk most, and have neighbouring ranks."""


def layout_of(pp: int, dp: int, tp: int) -> torch.Tensor:
    """Ranks by their places [pp, dp, tp]."""
    return torch.arange(pp * dp * tp).view(pp, dp, tp)


def own_groups(layout: torch.Tensor, rank: int) -> Iterator[tuple[str, list[int]]]:
    """Axis and members of the groups that a rank makes, in the order in which it does."""
    here = [int(at) for at in (layout == rank).nonzero()[0]]
    for dim, axis in enumerate(AXES):
        place: list[int | slice] = list(here)
        place[dim] = slice(None)
        yield axis, layout[tuple(place)].tolist()


def open_groups(layout: torch.Tensor, rank: int) -> dict[str, dist.ProcessGroup]:
    """Make them; every rank calls this."""
    return {
        axis: dist.new_group(members, use_local_synchronization=True, group_desc=axis)
        for axis, members in own_groups(layout, rank)
    }
