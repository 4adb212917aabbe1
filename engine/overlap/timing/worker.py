"""One of the ranks that time operators: ``torchrun -m engine.overlap.timing.worker PLAN OUT``."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from collectors.recorder import NullRecorder
from collectors.settings import Settings
from engine.groups.group import CurrentStep, disconnect
from engine.overlap.tensor_parallel import TensorParallelGroup
from engine.overlap.timing.case import Plan
from engine.overlap.timing.operation import Operation, check, ways_of
from engine.overlap.timing.tune import tune
from engine.overlap.tuning_cache import TuningCache, arch_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.overlap.timing.case import Case
    from engine.overlap.timing.operation import Way

_LEAST_S = 0.004  # a measurement repeats its call for at least so long
_MOST_REPEATS = 64
_SETTLE = 2  # calls of each way before any counts


def main() -> None:
    """Time all cases; each rank leaves a line for each in a file of its own."""
    plan = Plan.from_json(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    device = _settle(plan, local_rank)
    group = TensorParallelGroup(
        ranks=range(dist.get_world_size()),
        global_rank=rank,
        process_group=dist.group.WORLD,
        recorder=NullRecorder(),
        current_step=CurrentStep(),
        synchronous=device.type == "cpu",
        home=Settings.from_environment().home,
    )
    with (Path(sys.argv[2]) / f"rank{rank}.jsonl").open("w", encoding="utf-8") as out:
        for case in plan.cases:
            told = _time(case, plan, group, device)
            out.write(json.dumps(told) + "\n")
            out.flush()
    group.close()
    disconnect()


def _settle(plan: Plan, local_rank: int) -> torch.device:
    torch.set_num_threads(1)
    if plan.device == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
        return device
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    if plan.pin and local_rank < len(cores):
        os.sched_setaffinity(0, {cores[local_rank]})
    dist.init_process_group("gloo")
    return torch.device("cpu")


def _time(
    case: Case, plan: Plan, group: TensorParallelGroup, device: torch.device
) -> dict[str, object]:
    """Seconds of each way in each round, as this rank saw them."""
    operation = Operation(
        case, rank=group.rank, size=group.size, device=device, dtype=getattr(torch, plan.dtype)
    )
    ways = ways_of(group)
    repeats = _repeats(operation, ways)
    tuned = None
    if plan.tune:
        fused = ways["fused"]
        tuned = _tune(case, plan, group, operation=operation, fused=fused, repeats=repeats)
    wrong = check(operation, ways)
    chance = random.Random(case.m)  # noqa: S311 - the same order on all ranks
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(plan.rounds):
        for name in chance.sample(list(ways), len(ways)):
            seconds[name].append(_measure(operation, ways[name], repeats) / repeats)
    return {
        "case": str(case),
        "wrong": wrong,
        "seconds": seconds,
        "tuned": tuned,
    }


def _tune(
    case: Case,
    plan: Plan,
    group: TensorParallelGroup,
    *,
    operation: Operation,
    fused: Way,
    repeats: int,
) -> dict[str, object] | None:
    """Find and keep the fastest choice; gives it."""
    found = tune(
        case,
        group,
        dtype=getattr(torch, plan.dtype),
        device=operation.device,
        measure=lambda: _measure(operation, fused, repeats) / repeats,
    )
    if found is None:
        return None
    sizes, choice, seconds = found
    if group.rank == 0:
        home, arch = Settings.from_environment().home, arch_of(operation.device)
        TuningCache(home, arch=arch, world=group.size).write(sizes, choice, seconds)
    return choice.to_json()


def _repeats(operation: Operation, ways: Mapping[str, Way]) -> int:
    for way in ways.values():
        for _ in range(_SETTLE):
            operation(way)
    once = torch.tensor(min(_measure(operation, way, 1) for way in ways.values()))
    dist.all_reduce(once, dist.ReduceOp.MIN)
    return min(_MOST_REPEATS, max(1, round(_LEAST_S / float(once))))


def _measure(operation: Operation, way: Way, repeats: int) -> float:
    """Seconds of some calls that all ranks begin together."""
    dist.barrier()
    _synchronize(operation)
    begun = time.perf_counter()
    for _ in range(repeats):
        operation(way)
    _synchronize(operation)
    return time.perf_counter() - begun


def _synchronize(operation: Operation) -> None:
    if operation.device.type == "cuda":
        torch.cuda.synchronize(operation.device)


if __name__ == "__main__":
    main()
