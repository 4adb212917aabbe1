"""What kind of machine this is: hosts of one kind share their baselines."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from playbooks.checks.processors import driver_gpu_names, usable_cores

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The kind, without anything of this one machine (no host name, no serial number).

    Attributes:
        cores: that this process may use.
        memory_gib: two digits: kernels keep a little more or less of the same memory.
        gpus: model names, sorted.
    """

    cpu: str
    cores: int
    memory_gib: int
    gpus: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"fingerprint": self.fingerprint}


def this_hardware() -> Hardware:
    """Of the machine that this runs on."""
    return Hardware(
        cpu=_cpu_model(),
        cores=len(usable_cores()),
        memory_gib=int(float(f"{psutil.virtual_memory().total / (1 << 30):.1e}")),
        gpus=tuple(sorted(driver_gpu_names())),
    )


def _cpu_model() -> str:
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
