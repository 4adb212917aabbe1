"""A rank that is slow because another process uses its cores."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from engine.faults.grammar import step_range, whole_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.recorder import Recorder

_HOG = Path(__file__).with_name("hog.py")


@dataclass(frozen=True, kw_only=True)
class SlowRank:
    """During some steps, each core of one rank is shared with a busy process."""

    name: ClassVar[str] = "slow-rank"
    parameters: ClassVar[Mapping[str, str]] = {
        "rank": "the global rank to slow down",
        "steps": "the first and last step of it, such as 60-110",
    }

    rank: int
    first_step: int
    last_step: int

    @classmethod
    def from_values(cls, values: Mapping[str, str]) -> SlowRank:
        first, last = step_range("steps", values["steps"])
        return cls(rank=whole_number("rank", values["rank"]), first_step=first, last_step=last)

    def misfit(self, *, world_size: int, steps: int) -> str:
        if self.rank >= world_size:
            return f"rank {self.rank} does not exist: the run has ranks 0 to {world_size - 1}"
        if self.first_step > steps:
            return f"step {self.first_step} never comes: the run has {steps} steps"
        return ""

    def unavailable(self, *, unpinned: str) -> str:
        return f"ranks cannot be pinned to cores: {unpinned}" if unpinned else ""

    def inject(
        self, *, rank: int, cores: Sequence[int], unpinned: str, recorder: Recorder
    ) -> SlowRankInjector | None:
        if rank != self.rank:
            return None
        if reason := self.unavailable(unpinned=unpinned):
            attributes = {**self.attributes, "reason": reason}
            recorder.event("fault.skipped", subject=rank, attributes=attributes)
            return None
        return SlowRankInjector(self, cores, recorder)

    @property
    def attributes(self) -> dict[str, Any]:
        """The fault as it is recorded."""
        steps = f"{self.first_step}-{self.last_step}"
        return {"class": self.name, "rank": self.rank, "steps": steps}


class SlowRankInjector:
    """Starts the hogs when their first step begins, and ends them when the last has ended."""

    def __init__(self, fault: SlowRank, cores: Sequence[int], recorder: Recorder) -> None:
        self._fault = fault
        self._cores = cores
        self._recorder = recorder
        self._hogs: list[subprocess.Popen[bytes]] = []

    def on_step_begin(self, step: int) -> None:
        if not self._hogs and self._fault.first_step <= step <= self._fault.last_step:
            self._hogs = [_start_hog(core) for core in self._cores]
            self._record("fault.begin", step)

    def on_step_end(self, step: int) -> None:
        if self._hogs and step >= self._fault.last_step:
            self._stop()
            self._record("fault.end", step)

    def close(self) -> None:
        self._stop()

    def _stop(self) -> None:
        for hog in self._hogs:
            hog.kill()
            hog.wait()
        self._hogs = []

    def _record(self, name: str, step: int) -> None:
        attributes = {**self._fault.attributes, "cores": list(self._cores)}
        self._recorder.event(name, subject=self._fault.rank, value=step, attributes=attributes)


def _start_hog(core: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(_HOG), str(os.getpid()), str(core)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
