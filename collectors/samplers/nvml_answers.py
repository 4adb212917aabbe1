"""Asking a device through NVML, where half of the questions may not be answered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import pynvml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOST = {
    pynvml.NVML_ERROR_GPU_IS_LOST: "it has fallen off the bus",
    pynvml.NVML_ERROR_RESET_REQUIRED: "it needs a reset",
}
GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}
"""With these the driver as a whole does not answer any more."""
# What is not there, and is no reason to bother anybody.
_HAS_NOT = {
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    # An older driver says so of fields, links and counters that it does not know.
    pynvml.NVML_ERROR_INVALID_ARGUMENT,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
}
_NOT_NOW = {
    pynvml.NVML_ERROR_NO_DATA,
    pynvml.NVML_ERROR_NOT_FOUND,
    pynvml.NVML_ERROR_NOT_READY,
    pynvml.NVML_ERROR_IN_USE,
}
ASK_AGAIN_S = 600.0
"""After this a device is asked again what it did not support: MIG may be off by then."""

_VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")
# Counts of bytes; where a driver gives them 32 bits, they wrap within a second and tell nothing.
_WIDE = {pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES}
EVERY_LINK = 0xFFFFFFFF
Field = tuple[int, int]
"""A field's id, and its scope: a link, EVERY_LINK, or 0."""


_T = TypeVar("_T")


class Lost(Exception):  # noqa: N818 - a state of the device, not an error of ours
    """The device does not answer any more; the text says why."""


class Gone(Exception):  # noqa: N818 - a state of the machine
    """The driver does not answer any more; ``error`` is NVML's code."""

    def __init__(self, error: int) -> None:
        super().__init__(str(pynvml.NVMLError(error)))
        self.error = error


@dataclass(frozen=True, slots=True)
class Refusal:
    """A question that was not answered, though the device knows it; ``error`` is NVML's code."""

    what: str
    error: int


class Answers:
    """One device, and what it does not answer.

    Attributes:
        handle: the device; None while the driver does not list it.
        refusals: gather here, until somebody takes them.
        now_s: when it is asked.
    """

    def __init__(self) -> None:
        self.handle: Any | None = None
        self.refusals: list[Refusal] = []
        self.now_s = 0.0
        self._silent_until: dict[Any, float] = {}

    def ask(self, what: str, function: Callable[..., _T], *arguments: object) -> _T | None:
        """The answer; None where there is none.

        Raises:
            Lost: the device does not answer any more.
            Gone: the driver does not.
        """
        if self.handle is None:
            raise Lost("the driver does not list it any more")
        if not self._asked(what):
            return None
        try:
            return function(self.handle, *arguments)
        except pynvml.NVMLError as error:
            self._refused(what, what, error.value)
            return None

    def fields(self, wanted: Iterable[Field]) -> dict[Field, float]:
        """The values of those fields that the device has, all of one call."""
        asked = [field for field in wanted if self._asked(field)]
        if not asked:
            return {}
        values = self.ask("field values", pynvml.nvmlDeviceGetFieldValues, asked)
        found: dict[Field, float] = {}
        for field, value in zip(asked, values or (), strict=False):
            error = value.nvmlReturn
            if field[0] in _WIDE and value.valueType == pynvml.NVML_VALUE_TYPE_UNSIGNED_INT:
                error = error or pynvml.NVML_ERROR_NOT_SUPPORTED
            if error == pynvml.NVML_SUCCESS:
                found[field] = getattr(value.value, _VALUES[value.valueType])
            else:
                self._refused(field, f"field {field[0]}", error)
        return found

    def _asked(self, key: object) -> bool:
        until = self._silent_until.get(key)
        return until is None or self.now_s >= until

    def _refused(self, key: object, what: str, error: int) -> None:
        if error in _LOST:
            raise Lost(_LOST[error])
        if error in GONE:
            raise Gone(error)
        if error in _HAS_NOT or error == pynvml.NVML_ERROR_NO_PERMISSION:
            self._silent_until[key] = self.now_s + ASK_AGAIN_S
        if error not in _HAS_NOT and error not in _NOT_NOW:
            self.refusals.append(Refusal(what, error))
