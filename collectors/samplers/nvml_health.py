"""A GPU's memory errors: ECC counts, and rows that were remapped or pages that were retired."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pynvml

from collectors.samplers.counters import Counters
from collectors.samplers.sampler import Happening, Reading

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.samplers.nvml_answers import Answers

# Metric, kind of error, since when it is counted.
_ECC = (
    ("ecc_corrected", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_VOLATILE_ECC),
    ("ecc_uncorrected", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC),
    ("ecc_corrected_ever", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED, pynvml.NVML_AGGREGATE_ECC),
    ("ecc_uncorrected_ever", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_AGGREGATE_ECC),
)
_KINDS = {"ecc_corrected": "corrected", "ecc_uncorrected": "uncorrected"}
_PAGES = tuple(
    (field, 0)
    for field in (
        pynvml.NVML_FI_DEV_RETIRED_SBE,
        pynvml.NVML_FI_DEV_RETIRED_DBE,
        pynvml.NVML_FI_DEV_RETIRED_PENDING,
    )
)


class Health:
    """The memory of one device."""

    def __init__(self, gpu: int, answers: Answers) -> None:
        self._gpu = gpu
        self._answers = answers
        self._counters = Counters()
        self._replaced: dict[str, tuple[int, int, bool, bool]] = {}

    def read(self) -> Iterator[Reading | Happening]:
        """Counts as they are, and events for what grew."""
        for metric, error, since in _ECC:
            total = self._answers.ask(metric, pynvml.nvmlDeviceGetTotalEccErrors, error, since)
            if total is not None:
                yield Reading(f"gpu.{self._gpu}.{metric}", float(total))
                yield from self._ecc(metric, total)
        rows = self._answers.ask("remapped_rows", pynvml.nvmlDeviceGetRemappedRows)
        if rows is not None:
            corrected, uncorrected, pending, failure = rows
            yield from self._replacing(
                "rows", (corrected, uncorrected, bool(pending), bool(failure))
            )
        pages = self._answers.fields(_PAGES)
        if len(pages) == len(_PAGES):
            corrected, uncorrected, pending = (int(pages[field]) for field in _PAGES)
            yield from self._replacing("pages", (corrected, uncorrected, bool(pending), False))

    def _ecc(self, metric: str, total: int) -> Iterator[Happening]:
        # What is counted for ever tells the same errors once more.
        added = self._counters.added(metric, total)
        if added and metric in _KINDS:
            attributes = {"gpu": self._gpu, "kind": _KINDS[metric], "count": int(added)}
            yield Happening("gpu.ecc", attributes | {"total": total}, added)

    def _replacing(
        self, what: str, now: tuple[int, int, bool, bool]
    ) -> Iterator[Reading | Happening]:
        names = ("corrected", "uncorrected", "pending", "failure")
        for name, value in zip(names, now, strict=True):
            yield Reading(f"gpu.{self._gpu}.remapped_{what}_{name}", float(value))
        _, _, pending, failure = now
        before = self._replaced.get(what)
        self._replaced[what] = now
        if before != now and (before is not None or pending or failure):
            attributes = {"gpu": self._gpu, "kind": what, **dict(zip(names, now, strict=True))}
            yield Happening("gpu.remapped_rows", attributes)
