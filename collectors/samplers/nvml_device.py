"""One GPU: what it is, and what it says of itself at every reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pynvml

from collectors.samplers.counters import Counters
from collectors.samplers.nvml_answers import EVERY_LINK, Answers
from collectors.samplers.nvml_health import Health
from collectors.samplers.nvml_links import Links
from collectors.samplers.nvml_processes import Processes
from collectors.samplers.nvml_throttle import ThrottleEpisodes
from collectors.samplers.sampler import Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Metric, function, its arguments, and the factor to the metric's unit.
_PLAIN: tuple[tuple[str, str, tuple[int, ...], float], ...] = (
    ("power_w", "nvmlDeviceGetPowerUsage", (), 1e-3),
    ("power_limit_w", "nvmlDeviceGetEnforcedPowerLimit", (), 1e-3),
    ("temperature_c", "nvmlDeviceGetTemperature", (pynvml.NVML_TEMPERATURE_GPU,), 1.0),
    ("sm_clock_mhz", "nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_SM,), 1.0),
    ("memory_clock_mhz", "nvmlDeviceGetClockInfo", (pynvml.NVML_CLOCK_MEM,), 1.0),
    ("performance_state", "nvmlDeviceGetPerformanceState", (), 1.0),
    ("fan_pct", "nvmlDeviceGetFanSpeed", (), 1.0),
)
_MEMORY_TEMPERATURE = (pynvml.NVML_FI_DEV_MEMORY_TEMP, 0)
_KIB = 1024
# Counters whose growth is a rate: field, metric, bytes in one of its counts.
_RATES = (
    ((pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, EVERY_LINK), "nvlink_tx_bytes_per_s", _KIB),
    ((pynvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, EVERY_LINK), "nvlink_rx_bytes_per_s", _KIB),
    ((pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, 0), "pcie_tx_bytes_per_s", 1),
    ((pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES, 0), "pcie_rx_bytes_per_s", 1),
)
_FIELDS = (_MEMORY_TEMPERATURE, *(field for field, _, _ in _RATES))
_HELD_DOWN = (
    ("power_throttle_pct", pynvml.NVML_PERF_POLICY_POWER),
    ("thermal_throttle_pct", pynvml.NVML_PERF_POLICY_THERMAL),
)
_NO_STATE = 32  # NVML_PSTATE_UNKNOWN
_SPREAD = 8
_FAKE = "FAKE"


class Device:
    """A GPU of this host. It keeps its number ``gpu`` while others come and go."""

    def __init__(self, gpu: int, uuid: str | None) -> None:
        self.gpu = gpu
        self.uuid = uuid
        self.answers = Answers()
        self._rates = Counters()
        self._throttle = ThrottleEpisodes()
        self._health = Health(gpu, self.answers)
        self._links = Links(gpu, self.answers)
        self._processes = Processes(gpu, self.answers)
        self._slow_at_s: float | None = None

    def inventory(self, driver: str) -> Mapping[str, Any]:
        """What it is, as attributes of ``gpu.device``.

        Raises:
            Lost, Gone: as of :meth:`Answers.ask`, and so does :meth:`read`.
        """
        ask = self.answers.ask
        name = ask("name", pynvml.nvmlDeviceGetName)
        pci = ask("pci", pynvml.nvmlDeviceGetPciInfo)
        memory = ask("memory", pynvml.nvmlDeviceGetMemoryInfo)
        mig = ask("mig", pynvml.nvmlDeviceGetMigMode)
        return {
            "gpu": self.gpu,
            "name": name,
            "uuid": self.uuid,
            "driver": driver,
            "source": "fake" if (name or "").startswith(_FAKE) else "nvml",
            "pci_bus": pci.busId if pci else None,
            "memory_bytes": memory.total if memory else None,
            "sm_clock_max_mhz": ask(
                "sm_clock_max_mhz", pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_SM
            ),
            "memory_clock_max_mhz": ask(
                "memory_clock_max_mhz", pynvml.nvmlDeviceGetMaxClockInfo, pynvml.NVML_CLOCK_MEM
            ),
            "pcie_generation_max": ask(
                "pcie_generation_max", pynvml.nvmlDeviceGetMaxPcieLinkGeneration
            ),
            "pcie_width_max": ask("pcie_width_max", pynvml.nvmlDeviceGetMaxPcieLinkWidth),
            "nvlinks": self._links.count(),
            "mig": bool(mig[0]) if mig else None,
        }

    def read(self, now_s: float, slow_s: float) -> Iterator[Reading | Happening]:
        """What is so now; what costs time or changes rarely, once in ``slow_s``."""
        self.answers.now_s = now_s
        for metric, value in self._metrics(now_s):
            yield Reading(f"gpu.{self.gpu}.{metric}", float(value))
        yield from self._throttled(now_s)
        if self._slow_at_s is None or now_s >= self._slow_at_s:
            yield from self._slowly(now_s)
            # Spread over the devices from then on. Not set where a device is lost half-way: all
            # of it is asked again, and it is back only when nothing fails.
            share = 1.0 if self._slow_at_s is not None else (self.gpu % _SPREAD + 1) / _SPREAD
            self._slow_at_s = now_s + slow_s * share

    def pids(self) -> list[int]:
        """Processes that have memory on it now."""
        return self._processes.pids()

    def _metrics(self, now_s: float) -> Iterator[tuple[str, float]]:
        ask = self.answers.ask
        if (used := ask("utilisation", pynvml.nvmlDeviceGetUtilizationRates)) is not None:
            yield "util_pct", used.gpu
            yield "memory_util_pct", used.memory
        if (memory := ask("memory", pynvml.nvmlDeviceGetMemoryInfo)) is not None:
            yield "memory_used_bytes", memory.used
            yield "memory_total_bytes", memory.total
        for metric, function, arguments, factor in _PLAIN:
            value = ask(metric, getattr(pynvml, function), *arguments)
            if value is not None and (metric, value) != ("performance_state", _NO_STATE):
                yield metric, value * factor
        values = self.answers.fields(_FIELDS)
        if _MEMORY_TEMPERATURE in values:
            yield "memory_temperature_c", values[_MEMORY_TEMPERATURE]
        for field, metric, size in _RATES:
            if field in values and (
                (rate := self._rates.per_s(metric, values[field] * size, now_s)) is not None
            ):
                yield metric, rate
        for metric, policy in _HELD_DOWN:
            held = ask(metric, pynvml.nvmlDeviceGetViolationStatus, policy)
            if held is not None and (
                (share := self._rates.per_s(metric, held.violationTime / 1e9, now_s)) is not None
            ):
                yield metric, min(share, 1.0) * 100

    def _throttled(self, now_s: float) -> Iterator[Reading | Happening]:
        bits = self.answers.ask("throttle_reasons", pynvml.nvmlDeviceGetCurrentClocksEventReasons)
        if bits is None:
            bits = self.answers.ask(
                "throttle_reasons before 535", pynvml.nvmlDeviceGetCurrentClocksThrottleReasons
            )
        if bits is None:
            return
        yield Reading(f"gpu.{self.gpu}.throttle_reasons", float(bits))
        for one in self._throttle.take(bits, now_s):
            attributes = {
                "gpu": self.gpu,
                "reason": one.reason,
                "state": one.state,
                "duration_s": one.duration_s,
            }
            value = float("nan") if one.duration_s is None else one.duration_s
            yield Happening("gpu.throttle", attributes, value)

    def _slowly(self, now_s: float) -> Iterator[Reading | Happening]:
        yield from self._health.read()
        yield from self._links.read()
        yield from self._processes.read(now_s)
