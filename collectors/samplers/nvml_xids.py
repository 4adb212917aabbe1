"""The XIDs that the driver tells of while it is listened to."""

from __future__ import annotations

import ctypes
from collections import Counter
from typing import TYPE_CHECKING, Any

import pynvml

from collectors.samplers.nvml_answers import GONE, Gone, Lost
from collectors.samplers.sampler import Happening
from collectors.samplers.xid import xid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from collectors.samplers.nvml_device import Device

_MOST_AT_ONCE = 1000


class XidEvents:
    """An event set of NVML, over all devices that have XIDs."""

    def __init__(self, devices: Iterable[Device]) -> None:
        self._devices: dict[int | None, Device] = {}
        self._events: Any | None = None
        try:
            self._events = pynvml.nvmlEventSetCreate()
        except pynvml.NVMLError:
            return  # some machines have none (WSL): the kernel's log is all that tells XIDs there
        for device in devices:
            try:
                listening = device.answers.ask("xids", _register, self._events)
            except Lost:
                continue  # its reading says so
            if listening:
                self._devices[_address(device.answers.handle)] = device

    def drain(self) -> Iterator[Happening]:
        """What came since the last time: one event for each number of a device, and how often."""
        for (address, number), count in self._waiting().items():
            device = self._devices[address]
            known = xid(number)
            attributes = {
                "gpu": device.gpu,
                "uuid": device.uuid,
                "xid": number,
                "what": known.what,
                "remedy": known.remedy,
                "count": count,
                "pids": _pids(device),
            }
            yield Happening("gpu.xid", attributes, float(number))

    def close(self) -> None:
        """Listen no longer."""
        if self._events is not None:
            pynvml.nvmlEventSetFree(self._events)

    def _waiting(self) -> Counter[tuple[int | None, int]]:
        found: Counter[tuple[int | None, int]] = Counter()
        if not self._devices:
            return found
        for _ in range(_MOST_AT_ONCE):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._events, 0)
            except pynvml.NVMLError as error:
                if error.value in GONE:
                    raise Gone(error.value) from error
                # Nothing waits; or a lost device fails the wait for all, until NVML is opened
                # anew and that one is left out.
                break
            address = _address(event.device)
            if event.eventType == pynvml.nvmlEventTypeXidCriticalError and address in self._devices:
                found[address, event.eventData] += 1
        return found


def _register(handle: object, events: object) -> bool:
    pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, events)
    return True


def _address(handle: Any) -> int | None:  # noqa: ANN401 - a pointer of ctypes
    return ctypes.cast(handle, ctypes.c_void_p).value


def _pids(device: Device) -> list[int] | None:
    try:
        return device.pids()
    except Lost:
        return None
