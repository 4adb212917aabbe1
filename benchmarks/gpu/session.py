"""What the machine is, how large the cases are, and how they are timed."""

from __future__ import annotations

import platform
import random
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import triton

from engine.overlap.kernels.tile_shape import LEAST_SHARED, SHARED_LIMITS
from engine.overlap.precision import FP8

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    Call = Callable[[], object]

ROUNDS = 20
_DTYPES = (torch.float32, torch.float16, torch.bfloat16, FP8)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the machine is, and how large the cases are."""

    device: torch.device
    dry: bool
    ends_s: float

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """Which the device multiplies; the interpreter knows no bf16 memory."""
        if self.dry:
            return torch.float32, torch.float16
        fp8 = torch.cuda.get_device_capability(self.device) >= (8, 9)
        return _DTYPES if fp8 else _DTYPES[:3]

    @property
    def half(self) -> torch.dtype:
        """What is timed: bf16, as large models have it."""
        return torch.float16 if self.dry else torch.bfloat16

    @property
    def shared_limit(self) -> int:
        """Bytes of shared memory of a program."""
        if self.dry:
            return LEAST_SHARED
        major, minor = torch.cuda.get_device_capability(self.device)
        return SHARED_LIMITS.get(10 * major + minor, LEAST_SHARED)

    def sized(self, size: int) -> int:
        """``size``, or a small one."""
        return size // 256 if self.dry else size

    def has(self, seconds: float) -> bool:
        """Whether so much time is left."""
        return time.monotonic() + seconds < self.ends_s


def facts(session: Session) -> dict[str, Any]:
    """The machine, its clocks now, and what runs on it."""
    told: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "gpu": clocks(),
        "commit": _answer("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }
    versions = {"torch": torch.__version__, "triton": triton.__version__}
    return told | versions | {"python": platform.python_version(), "dry_run": session.dry}


def clocks() -> str:
    """The driver's word on clocks, power and temperature just now; "" where there is none."""
    asked = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.draw,temperature.gpu"
    return _answer("nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader")


def _answer(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return ""
    return ran.stdout.strip()


def seconds_of(calls: Mapping[str, Call], session: Session) -> dict[str, list[float]]:
    """Seconds of each call in each round, interleaved in an order drawn anew."""
    chance = random.Random(3)  # noqa: S311 - only an order
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(2 if session.dry else ROUNDS):
        for name in chance.sample(list(calls), len(calls)):
            times[name].append(once(calls[name], session))
    return times


def once(call: Call, session: Session, repeats: int = 4) -> float:
    """Seconds of one call, on the device."""
    if session.dry:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun
    begin, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000 / repeats


def drawn(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values of about 1."""
    return torch.randn(shape, device=device).to(dtype)
