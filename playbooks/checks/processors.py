"""The parts of this machine that are checked one by one: cores, memory nodes, GPUs."""

from __future__ import annotations

import os
from pathlib import Path

_NODES = Path("/sys/devices/system/node")


def usable_cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def stay_on(core: int) -> None:
    """Keep the calling thread on one core, where the system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def memory_nodes(directory: Path = _NODES) -> dict[str, list[int]]:
    """The usable cores next to each memory node; one node of all where the system tells none."""
    usable = set(usable_cores())
    nodes: dict[str, list[int]] = {}
    for path in sorted(directory.glob("node[0-9]*"), key=lambda path: int(path.name[4:])):
        cores = sorted(usable & set(parse_cores((path / "cpulist").read_text())))
        if cores:
            nodes[path.name] = cores
    return nodes or {"node0": sorted(usable)}


def parse_cores(text: str) -> list[int]:
    """The kernel's way to list cores: ``0-2,8`` is 0, 1, 2 and 8."""
    cores: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            cores += range(int(first), int(last or first) + 1)
    return cores


def gpu_count() -> int:
    """GPUs that PyTorch can compute on; it is loaded only where the driver knows some."""
    if not driver_gpu_names():
        return 0
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def driver_gpu_names() -> list[str]:
    """What NVIDIA's driver calls the machine's GPUs; empty where there is none."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        return [str(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    finally:
        pynvml.nvmlShutdown()
