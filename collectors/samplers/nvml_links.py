"""A GPU's links: PCIe to its host, NVLinks to its peers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml

from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.samplers.nvml_answers import Answers

_LINK_COUNT = (pynvml.NVML_FI_DEV_NVLINK_LINK_COUNT, 0)
# By link. The first three are of Hopper's NVLink and its like, the others of Blackwell's.
_ERROR_FIELDS = {
    pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY: "replay",
    pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY: "recovery",
    pynvml.NVML_FI_DEV_NVLINK_ERROR_DL_CRC: "crc",
    pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS: "recovery",
    pynvml.NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS: "failed_recovery",
    pynvml.NVML_FI_DEV_NVLINK_COUNT_RCV_ERRORS: "receive",
}
# Where a device or driver has none of these fields.
_ERROR_COUNTERS = {
    pynvml.NVML_NVLINK_ERROR_DL_REPLAY: "replay",
    pynvml.NVML_NVLINK_ERROR_DL_RECOVERY: "recovery",
    pynvml.NVML_NVLINK_ERROR_DL_CRC_FLIT: "crc",
}
_PCIE_RATES = (
    ("pcie_tx_bytes_per_s", pynvml.NVML_PCIE_UTIL_TX_BYTES),
    ("pcie_rx_bytes_per_s", pynvml.NVML_PCIE_UTIL_RX_BYTES),
)
_PCIE_COUNTED = tuple(
    (field, 0)
    for field in (pynvml.NVML_FI_DEV_PCIE_COUNT_TX_BYTES, pynvml.NVML_FI_DEV_PCIE_COUNT_RX_BYTES)
)


class Links:
    """The links of one device."""

    def __init__(self, gpu: int, answers: Answers) -> None:
        self._gpu = gpu
        self._answers = answers
        self._counters = Counters()
        self._active: dict[int, bool] = {}
        self._widest = 0

    def count(self) -> int | None:
        """How many NVLinks the device has; None where it does not say."""
        count = self._answers.fields([_LINK_COUNT]).get(_LINK_COUNT)
        return None if count is None else int(count)

    def read(self) -> Iterator[Reading | Happening]:
        """Their state and counts, and events for what grew or went down."""
        yield from self._pcie()
        if links := range(self.count() or 0):
            yield from self._states(links)
            yield from self._errors(links)

    def _pcie(self) -> Iterator[Reading | Happening]:
        ask = self._answers.ask
        replays = ask("pcie_replays", pynvml.nvmlDeviceGetPcieReplayCounter)
        if replays is not None:
            yield self._reading("pcie_replays", replays)
            yield from self._grown("pcie", None, "replay", replays)
        generation = ask("pcie_generation", pynvml.nvmlDeviceGetCurrPcieLinkGeneration)
        if generation is not None:
            yield self._reading("pcie_generation", generation)
        width = ask("pcie_width", pynvml.nvmlDeviceGetCurrPcieLinkWidth)
        if width is not None:
            yield self._reading("pcie_width", width)
            if width < self._widest:
                yield self._error("pcie", None, "narrower", self._widest - width, width)
            self._widest = width
        # Each of these calls measures for 20 ms; newer drivers count instead, which is read
        # with the other rates.
        if not self._answers.fields(_PCIE_COUNTED):
            for metric, direction in _PCIE_RATES:
                kib_per_s = ask(metric, pynvml.nvmlDeviceGetPcieThroughput, direction)
                if kib_per_s is not None:
                    yield self._reading(metric, kib_per_s * 1024)

    def _states(self, links: range) -> Iterator[Reading | Happening]:
        for link in links:
            active = self._answers.ask(f"nvlink {link}", pynvml.nvmlDeviceGetNvLinkState, link)
            if active is None:
                continue
            before = self._active.get(link, active)
            self._active[link] = bool(active)
            if bool(before) != bool(active):
                yield self._error("nvlink", link, "active" if active else "inactive", None, None)
        if self._active:
            yield self._reading("nvlinks_active", sum(self._active.values()))

    def _errors(self, links: range) -> Iterator[Reading | Happening]:
        totals: dict[str, int] = {}
        for (link, kind), total in self._error_counts(links).items():
            totals[kind] = totals.get(kind, 0) + total
            yield from self._grown("nvlink", link, kind, total)
        for kind, total in totals.items():
            yield self._reading(f"nvlink_{kind}_errors", total)

    def _error_counts(self, links: range) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        values = self._answers.fields((field, link) for field in _ERROR_FIELDS for link in links)
        for (field, link), total in values.items():
            found[link, _ERROR_FIELDS[field]] = int(total)
        if found:
            return found
        for link in links:
            for counter, kind in _ERROR_COUNTERS.items():
                what = f"nvlink {link} {kind}"
                counted = self._answers.ask(
                    what, pynvml.nvmlDeviceGetNvLinkErrorCounter, link, counter
                )
                if counted is not None:
                    found[link, kind] = counted
        return found

    def _grown(self, bus: str, link: int | None, kind: str, total: int) -> Iterator[Happening]:
        if added := self._counters.added(f"{bus} {link} {kind}", total):
            yield self._error(bus, link, kind, int(added), total)

    def _error(
        self, bus: str, link: int | None, kind: str, count: int | None, total: int | None
    ) -> Happening:
        attributes = {"gpu": self._gpu, "bus": bus, "link": link, "kind": kind}
        value = float("nan") if count is None else float(count)
        return Happening("gpu.link_error", attributes | {"count": count, "total": total}, value)

    def _reading(self, metric: str, value: float) -> Reading:
        return Reading(f"gpu.{self._gpu}.{metric}", float(value))
