"""How much of the time work waited for processors, memory or disks (the kernel's PSI).

Samples, once a second, of the resources cpu, memory, io and (newer kernels) irq:
``psi.<resource>.some_pct``, the share of the time since the last reading in which some task
waited, ``psi.<resource>.full_pct``, in which all did, and the kernel's own averages over 10 s,
``psi.<resource>.some_avg10_pct`` and ``psi.<resource>.full_avg10_pct``.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from collectors.level import Level, declare
from collectors.samplers.counters import Counters
from collectors.samplers.parts import Parts
from collectors.samplers.sampler import Absent, Reading
from collectors.samplers.source import Denied, names_in, parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from collectors.samplers.sampler import Happening

declare(Level.SAMPLED, "psi.")


class PressureSampler:
    """``/proc/pressure``."""

    name = "pressure"
    period_s = 1.0

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = root / "proc/pressure"
        self._clock = clock
        self._counters = Counters()
        self._parts = Parts(self.name)

    def read(self) -> Sequence[Reading | Happening]:
        """How each resource was waited for.

        Raises:
            Absent: the kernel does not count it.
            DataError, OSError: none can be read.
        """
        now_s = self._clock()
        try:
            parts = {
                name: partial(self._pressure, name, now_s) for name in names_in(self._directory)
            }
            if not parts:
                raise Absent(f"there is no resource in {self._directory}")
            return self._parts.read(parts, now_s)
        except Denied:
            raise
        except Absent as absent:
            raise Absent(f"{absent}: boot the kernel with psi=1, if it has PSI") from absent

    def close(self) -> None:
        """Nothing is held."""

    def _pressure(self, resource: str, now_s: float) -> Iterable[Reading]:
        lines = parsed(self._directory / resource, _read_pressure)
        found = []
        for kind, (avg10, total_us) in lines.items():
            name = f"psi.{resource}.{kind}"
            found.append(Reading(f"{name}_avg10_pct", avg10))
            stalled = self._counters.per_s(name, total_us / 1e6, now_s)
            if stalled is not None:
                found.append(Reading(f"{name}_pct", 100.0 * min(stalled, 1.0)))
        return found


def _read_pressure(text: str) -> dict[str, tuple[float, int]]:
    """By "some" and "full": average of 10 s in per cent, and microseconds in all."""
    found = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = dict(field.split("=") for field in fields)
        found[kind] = (float(values["avg10"]), int(values["total"]))
    if "some" not in found and "full" not in found:
        raise ValueError("nothing of what PSI tells")
    return found
