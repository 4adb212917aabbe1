"""The ranks of a run as a grid: pipeline by data by tensor parallel."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from collectors.settings import Settings
from engine.devices import pick_device
from engine.groups.group import Group, disconnect
from engine.groups.startup import AXES, layout_of, open_groups, own_groups
from engine.overlap.tensor_parallel import TensorParallelGroup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.recorder import Recorder
    from engine.groups.group import CurrentStep
    from engine.training.config import ParallelConfig


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """One rank's place: its device, and its group along every axis.

    Attributes:
        grid: torch's mesh of axes pp, dp and tp; None where there is one rank.
        background: all ranks, for what threads do beside training.
    """

    rank: int
    device: torch.device
    world: Group
    tp: TensorParallelGroup
    dp: Group
    pp: Group
    grid: DeviceMesh | None
    background: dist.ProcessGroup | None


def coordinates(rank: int, parallel: ParallelConfig) -> dict[str, int]:
    """Place of a rank in the grid; tensor-parallel peers have neighbouring ranks."""
    rest, tp = divmod(rank, parallel.tp)
    pp, dp = divmod(rest, parallel.dp)
    return {"tp": tp, "dp": dp, "pp": pp}


@contextmanager
def open_mesh(
    parallel: ParallelConfig,
    *,
    rank: int = 0,
    local_rank: int = 0,
    recorder: Recorder,
    current_step: CurrentStep,
) -> Iterator[Mesh]:
    """Meet the other ranks (found through torchrun's environment) and make the groups.

    Gloo connects CPU ranks, NCCL GPU ranks; a single rank connects to nobody.
    """
    device = pick_device(parallel.device, local_rank, parallel.world_size)
    if parallel.world_size > 1:
        _connect(device)
    mesh = _mesh(parallel, rank, device, recorder, current_step)
    try:
        yield mesh
    finally:
        for group in (mesh.tp, mesh.dp, mesh.pp, mesh.world):
            group.close()
    if parallel.world_size > 1:  # not after an error: the peers may be gone
        disconnect()


def _mesh(
    parallel: ParallelConfig,
    rank: int,
    device: torch.device,
    recorder: Recorder,
    current_step: CurrentStep,
) -> Mesh:
    layout = layout_of(parallel.pp, parallel.dp, parallel.tp)
    members = {"world": layout.flatten().tolist(), **dict(own_groups(layout, rank))}
    grid: DeviceMesh | None = None
    process_groups: dict[str, dist.ProcessGroup] = {}
    if parallel.world_size > 1:
        process_groups = open_groups(layout, rank)
        grid = DeviceMesh.from_group(
            [process_groups[axis] for axis in AXES], device.type, layout, mesh_dim_names=AXES
        )
    common: dict[str, Any] = {
        "global_rank": rank,
        "recorder": recorder,
        "current_step": current_step,
        "synchronous": device.type == "cpu",
    }
    world, dp_group, pp_group = (
        Group(
            axis=axis,
            ranks=members[axis],
            process_group=process_groups.get(axis),
            **common,
        )
        for axis in ("world", "dp", "pp")
    )
    tp_group = TensorParallelGroup(
        ranks=members["tp"],
        process_group=process_groups.get("tp"),
        choice=parallel.transport,
        timeout_s=parallel.peer_timeout_s,
        keep_gathered=parallel.keep_gathered,
        home=Settings.from_environment().home,
        **common,
    )
    return Mesh(
        rank=rank,
        device=device,
        world=world,
        tp=tp_group,
        dp=dp_group,
        pp=pp_group,
        grid=grid,
        background=dist.new_group(backend="gloo") if grid is not None else None,
    )


def _connect(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
