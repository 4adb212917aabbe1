"""The classes of faults there are."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.faults.cpu_quota import CpuQuota
from engine.faults.damaged_shard import CorruptShard, TruncatedShard
from engine.faults.frozen_storage import FrozenStorage
from engine.faults.full_disk import DiskFull
from engine.faults.gc_storm import GcStorm
from engine.faults.grammar import parse_fault
from engine.faults.network import NetworkCut, NetworkRate
from engine.faults.out_of_memory import OutOfMemory
from engine.faults.outside import OutsideFault
from engine.faults.parameter_flip import ParameterFlip
from engine.faults.poison import GradientFlip, NanBatch, NanRank
from engine.faults.processes import DriverKill, ExecutorKill
from engine.faults.rank_fault import RankFault
from engine.faults.signals import SigKill, SigSegv, SigStop
from engine.faults.slow_rank import SlowRank
from engine.faults.stuck import Deadlock, EndlessLoop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.faults.grammar import Fault
    from engine.faults.place import Place
    from engine.step_hook import StepHook

FAULTS: dict[str, type[Fault]] = {
    fault.name: fault
    for fault in (
        SlowRank,
        CpuQuota,
        GcStorm,
        SigKill,
        SigSegv,
        SigStop,
        Deadlock,
        EndlessLoop,
        OutOfMemory,
        NanBatch,
        NanRank,
        GradientFlip,
        ParameterFlip,
        ExecutorKill,
        DriverKill,
        NetworkCut,
        NetworkRate,
        DiskFull,
        CorruptShard,
        TruncatedShard,
        FrozenStorage,
    )
}
"""Every class, by its name in the grammar."""
RANK_FAULTS = {n: fault for n, fault in FAULTS.items() if issubclass(fault, RankFault)}
"""Those that ranks strike."""
OUTSIDE_FAULTS = {n: fault for n, fault in FAULTS.items() if issubclass(fault, OutsideFault)}
"""Those that a process outside of the run strikes."""


def check_faults(texts: Sequence[str], *, ranks: int, steps: int) -> None:
    """Make sure that a run of this size can have these faults, and that its ranks strike them.

    Raises:
        UsageError: one is malformed, of no class there is, outside of the run, or struck by others.
    """
    for text in texts:
        fault = parse_fault(text, FAULTS)
        if isinstance(fault, OutsideFault):
            raise UsageError(
                f"{fault.name} is not struck by a rank",
                where=f"--fault {text}",
                remedy="inject it by `opsuite drill`, which strikes a run from outside",
            )
        if misfit := fault.misfit(world_size=ranks, steps=steps):
            raise UsageError(misfit, where=f"--fault {text}", remedy="correct the fault")


def inject_all(texts: Sequence[str], place: Place) -> list[StepHook]:
    """What the rank at ``place`` does of a run's faults; outside faults are not its own."""
    hooks = []
    for index, text in enumerate(texts):
        fault = parse_fault(text, FAULTS)
        if isinstance(fault, RankFault):
            hooks.append(fault.inject(replace(place, index=index)))
    return [hook for hook in hooks if hook is not None]
