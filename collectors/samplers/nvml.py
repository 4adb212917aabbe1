"""NVIDIA GPUs, as their driver tells of them (NVML).

Samples ``gpu.<gpu>.<metric>``, once a second:

- ``util_pct``, ``memory_util_pct``: share of the time in which a kernel ran, and memory was used;
- ``memory_used_bytes``, ``memory_total_bytes``; ``power_w``, ``power_limit_w``; ``fan_pct``;
- ``temperature_c``, ``memory_temperature_c``; ``sm_clock_mhz``, ``memory_clock_mhz``;
- ``performance_state``: 0 is the fastest; ``throttle_reasons``: NVML's bits, idle ones too;
- ``power_throttle_pct``, ``thermal_throttle_pct``: share of the time in which clocks were held
  down for power, or for heat; between two readings too;
- ``nvlink_tx_bytes_per_s``, ``nvlink_rx_bytes_per_s``: payload over all links;
- ``pcie_tx_bytes_per_s``, ``pcie_rx_bytes_per_s``: where the driver counts bytes; else once in 5 s.

And once in 5 s: ``ecc_corrected``, ``ecc_uncorrected`` (since the driver was loaded),
``ecc_corrected_ever``, ``ecc_uncorrected_ever``; ``remapped_rows_*`` and ``remapped_pages_*``
(``corrected``, ``uncorrected``, and 0 or 1 for ``pending``, ``failure``); ``pcie_replays``,
``pcie_generation``, ``pcie_width``; ``nvlinks_active``, ``nvlink_<kind>_errors``; ``processes``.

Events, each with the number ``gpu``: ``gpu.device`` (what it is; repeated, so that runs that begin
later have it), ``gpu.xid``, ``gpu.throttle``, ``gpu.ecc``, ``gpu.remapped_rows``,
``gpu.link_error``, ``gpu.lost``, ``gpu.back``, ``gpu.process``, and ``gpu.unreadable``: what it has
but does not tell, and what helps. The views ``gpus`` and ``gpu_events`` list their attributes.

What a device does not support is missing, and asked for again after ten minutes.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import pynvml

from collectors.level import Level, declare
from collectors.samplers.nvml_answers import GONE, Gone, Lost
from collectors.samplers.nvml_device import Device
from collectors.samplers.nvml_xids import XidEvents
from collectors.samplers.sampler import Absent, Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

declare(Level.SAMPLED, "gpu.")
declare(
    Level.ALWAYS,
    *("gpu.device", "gpu.xid", "gpu.throttle", "gpu.ecc", "gpu.remapped_rows", "gpu.link_error"),
    *("gpu.lost", "gpu.back", "gpu.unreadable"),
)

SLOW_S = 5.0
INVENTORY_S = 5.0
OPEN_AGAIN_S = 30.0
_WHY_ABSENT = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver here (libnvidia-ml.so.1 is not found); "
    "a container is to be started with --gpus all and NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: "NVIDIA's driver is not loaded: modprobe nvidia, and "
    "dmesg if that fails",
    pynvml.NVML_ERROR_NO_PERMISSION: "this user may not open /dev/nvidiactl: join the group that "
    "owns it, or give the container the devices",
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "NVIDIA's library and its kernel module are of "
    "different versions, as after an upgrade: reboot or reload the module, then start the "
    "collector anew (opsuite collect stop)",
}
_LOST_REMEDY = (
    "drain the node; nvidia-smi -r or a reboot brings it back, and if it is lost again, replace it"
)
_REMEDIES = {
    pynvml.NVML_ERROR_NO_PERMISSION: "let the collector run as root, or as the owner of the GPU",
    pynvml.NVML_ERROR_INSUFFICIENT_POWER: "check the power cables of the GPU",
    pynvml.NVML_ERROR_IRQ_ISSUE: "check dmesg: the driver gets no interrupts of the GPU",
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: "have the GPU's infoROM repaired or the GPU replaced",
}


class NvmlSampler:
    """All GPUs of this host. Read it from one thread; a call may hang as long as the driver does.

    Args:
        slow_s: how often what costs time is read.
        inventory_s: how often it says again which devices there are.
        open_again_s: how often a driver that is not there, or has lost a device, is looked for.
        clock: seconds that only grow.
    """

    name = "nvml"
    period_s = 1.0

    def __init__(
        self,
        *,
        slow_s: float = SLOW_S,
        inventory_s: float = INVENTORY_S,
        open_again_s: float = OPEN_AGAIN_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slow_s = slow_s
        self._inventory_s = inventory_s
        self._open_again_s = open_again_s
        self._clock = clock
        self._devices: dict[int, Device] = {}
        self._lost: dict[int, float] = {}
        self._told: set[tuple[Any, ...]] = set()
        self._xids: XidEvents | None = None
        self._driver = ""
        self._absent: str | None = None
        self._opened_s = 0.0
        self._inventory_at_s = 0.0

    def read(self) -> Sequence[Reading | Happening]:
        """What the GPUs say now.

        Raises:
            Absent: there is no driver, it may not be used, or it sees no device.
        """
        now_s = self._clock()
        found: list[Reading | Happening] = []
        try:
            if self._xids is None or self._should_open_again(now_s):
                self._open(now_s, found)
            assert self._xids is not None
            found.extend(self._xids.drain())
            for device in self._devices.values():
                self._read(device, now_s, found)
            if now_s >= self._inventory_at_s:
                self._inventory_at_s = now_s + self._inventory_s
        except Gone as gone:
            self.close()
            self._absent = _WHY_ABSENT.get(gone.error, f"the NVIDIA driver has gone: {gone}")
            raise Absent(self._absent) from gone
        return found

    def close(self) -> None:
        """Let go of the driver, so that it can be unloaded and devices can be reset."""
        if self._xids is not None:
            # A driver that has gone knows of nothing that is to be let go.
            with contextlib.suppress(pynvml.NVMLError):
                self._xids.close()
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
            self._xids = None

    def _should_open_again(self, now_s: float) -> bool:
        # A device that was reset is not seen before NVML is opened anew.
        return bool(self._lost) and now_s >= self._opened_s + self._open_again_s

    def _open(self, now_s: float, found: list[Reading | Happening]) -> None:
        self.close()
        if self._absent is not None and now_s < self._opened_s + self._open_again_s:
            raise Absent(self._absent)
        self._opened_s = now_s
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            self._absent = _WHY_ABSENT.get(error.value, f"NVML does not start: {error}")
            raise Absent(self._absent) from error
        try:
            self._driver = pynvml.nvmlSystemGetDriverVersion()
            found.extend(self._enumerate())
            self._xids = XidEvents(self._devices.values())
        except (pynvml.NVMLError, Gone) as error:
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
            raise error if isinstance(error, Gone) else Gone(error.value) from error
        self._absent, self._inventory_at_s = None, now_s
        if not self._devices:
            self.close()
            self._absent = (
                "the NVIDIA driver shows this user no GPU: nvidia-smi -L, and dmesg, say why"
            )
            raise Absent(self._absent)

    def _enumerate(self) -> Iterator[Happening]:
        """Find the devices again by their UUIDs: numbers move up when one is not listed."""
        known = {device.uuid: device for device in self._devices.values()}
        for device in self._devices.values():
            device.answers.handle = None
        for index in range(pynvml.nvmlDeviceGetCount()):
            try:
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                uuid = pynvml.nvmlDeviceGetUUID(handle)
            except pynvml.NVMLError as error:
                if error.value in GONE:
                    raise
                if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
                    yield from self._unreadable(index, "device", error.value)
                elif not known:
                    self._devices[index] = Device(index, None)
                continue
            device = known.get(uuid) or self._added(index, uuid)
            device.answers.handle = handle

    def _added(self, index: int, uuid: str) -> Device:
        taken = self._devices.get(index)
        if taken is not None and taken.uuid is not None:
            index = max(self._devices) + 1
        self._devices[index] = Device(index, uuid)
        return self._devices[index]

    def _read(self, device: Device, now_s: float, found: list[Reading | Happening]) -> None:
        gpu = device.gpu
        try:
            if now_s >= self._inventory_at_s:
                found.append(Happening("gpu.device", device.inventory(self._driver)))
            # Taken one by one: what came before a failure counts.
            found.extend(device.read(now_s, self._slow_s))
        except Lost as lost:
            if gpu not in self._lost:
                self._lost[gpu] = now_s
                told = {"gpu": gpu, "uuid": device.uuid, "reason": str(lost)}
                found.append(Happening("gpu.lost", told | {"remedy": _LOST_REMEDY}))
        else:
            if gpu in self._lost:
                after_s = now_s - self._lost.pop(gpu)
                back = {"gpu": gpu, "uuid": device.uuid, "duration_s": after_s}
                found.append(Happening("gpu.back", back, after_s))
        for refusal in device.answers.refusals:
            found.extend(self._unreadable(gpu, refusal.what, refusal.error))
        device.answers.refusals.clear()

    def _unreadable(self, gpu: int, what: str, error: int) -> Iterator[Happening]:
        """Say it once: for all devices where it is a matter of rights."""
        rights = error == pynvml.NVML_ERROR_NO_PERMISSION and what != "device"
        key = (None if rights else gpu, what, error)
        if key not in self._told:
            self._told.add(key)
            remedy = _REMEDIES.get(error)
            reason = str(pynvml.NVMLError(error))
            told = {"gpu": gpu, "what": what, "reason": reason, "remedy": remedy}
            yield Happening("gpu.unreadable", told)
