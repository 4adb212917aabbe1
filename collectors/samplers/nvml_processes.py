"""Which processes have memory on a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml

from collectors.samplers.sampler import Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.samplers.nvml_answers import Answers

TOLD_EVERY_S = 15.0


class Processes:
    """The compute processes of one device, told when they come, when they go, and now and then.

    The driver's process ids are those of the host's first PID namespace, so that within a
    container they may be of no process that is seen there.
    """

    def __init__(self, gpu: int, answers: Answers) -> None:
        self._gpu = gpu
        self._answers = answers
        self._told: dict[int, float] = {}

    def read(self, now_s: float) -> Iterator[Reading | Happening]:
        """How many there are, and events of those that are news."""
        used = self._used()
        if used is None:
            return
        yield Reading(f"gpu.{self._gpu}.processes", float(len(used)))
        for pid, used_bytes in used.items():
            if now_s - self._told.get(pid, -TOLD_EVERY_S) >= TOLD_EVERY_S:
                self._told[pid] = now_s
                yield self._happening(pid, "running", used_bytes)
        for pid in self._told.keys() - used.keys():
            del self._told[pid]
            yield self._happening(pid, "ended", None)

    def pids(self) -> list[int]:
        """Those of now."""
        return sorted(self._used() or ())

    def _used(self) -> dict[int, int | None] | None:
        found = self._answers.ask("processes", pynvml.nvmlDeviceGetComputeRunningProcesses)
        if found is None:
            return None
        used: dict[int, int | None] = {}
        for one in found:  # with MIG, a process may be there once for each instance
            before = used.get(one.pid) or 0
            used[one.pid] = None if one.usedGpuMemory is None else before + one.usedGpuMemory
        return used

    def _happening(self, pid: int, state: str, used_bytes: int | None) -> Happening:
        value = float("nan") if used_bytes is None else float(used_bytes)
        attributes = {"gpu": self._gpu, "pid": pid, "state": state, "used_bytes": used_bytes}
        return Happening("gpu.process", attributes, value)
