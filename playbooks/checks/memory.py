"""Memory bandwidth: of every memory node by the cores next to it, and of every GPU's own memory.

STREAM's *add* (McCalpin, 1995): a = b + c over arrays of whole numbers, 24 bytes an element, so the
result is known and a bit that flips in memory shows.
"""

from __future__ import annotations

import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playbooks.checks.check import Measurement, Verdict
from playbooks.checks.processors import gpu_count, memory_nodes, stay_on

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

NAME = "memory"
_ARRAY_BYTES = 32 << 20  # of each of a core's three arrays
_GPU_BYTES = 1 << 30
_LEAST_BYTES = 1 << 20
_SHARE = 4  # of the available memory, one part in so many at most


def _add(b: Any, c: Any, out: Any) -> None:  # noqa: ANN401 - NumPy arrays; it loads late
    import numpy as np

    np.add(b, c, out=out)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The check.

    Attributes:
        nodes: cores by memory node; default: those of this machine.
        add: writes b + c to out; tests give one that is wrong.
    """

    nodes: Mapping[str, Sequence[int]] = field(default_factory=memory_nodes)
    add: Callable[[Any, Any, Any], None] = _add
    name: str = NAME

    def measure(self, seconds: float) -> list[Measurement]:
        """Node after node, then GPU after GPU."""
        gpus = gpu_count()
        share = seconds / (len(self.nodes) + gpus)
        measured = [self._measure_node(node, cores, share) for node, cores in self.nodes.items()]
        return measured + [_measure_gpu(gpu, share) for gpu in range(gpus)]

    def _measure_node(self, node: str, cores: Sequence[int], seconds: float) -> Measurement:
        import psutil

        available = psutil.virtual_memory().available
        size = max(_LEAST_BYTES, min(_ARRAY_BYTES, available // (_SHARE * 3 * len(cores))))
        together = threading.Barrier(len(cores), timeout=seconds + 30.0)
        with ThreadPoolExecutor(len(cores)) as pool:
            futures = [
                pool.submit(self._run_core, core, size // 8, seconds, together) for core in cores
            ]
            done = [future.result() for future in futures]
        wrong = sum(elements for _, elements in done)
        return Measurement(
            check=NAME,
            subject=node,
            metric=f"{len(cores)} cores",
            value=sum(rate for rate, _ in done) / 1e9,
            unit="GB/s",
            fault=Verdict.CORRUPT if wrong else None,
            detail=f"{wrong} elements are wrong" if wrong else "",
        )

    def _run_core(
        self, core: int, elements: int, seconds: float, together: threading.Barrier
    ) -> tuple[float, int]:
        """Bytes a second, and the number of wrong elements in the end."""
        import numpy as np

        stay_on(core)  # before the memory is touched first: that decides which node it lies on
        b = np.arange(elements, dtype=np.float64)
        c = np.full(elements, 3.0)
        a = np.zeros(elements)
        together.wait()
        each_s = _time(lambda: self.add(b, c, a), seconds)
        rate = 24.0 * elements / each_s
        return rate, int(np.count_nonzero(a != np.arange(3, elements + 3)))


def _time(operate: Callable[[], None], seconds: float) -> float:
    """The median time of one pass of many: a moment's disturbance is not the machine's state."""
    times: list[float] = []
    begun = time.perf_counter()
    while not times or time.perf_counter() - begun < seconds:
        started = time.perf_counter()
        operate()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def _measure_gpu(gpu: int, seconds: float) -> Measurement:
    """Copies inside the GPU's memory: read and written."""
    import torch

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize(gpu)

    source = torch.arange(_GPU_BYTES // 4, dtype=torch.int32, device=f"cuda:{gpu}")
    target = torch.zeros_like(source)
    torch.cuda.synchronize(gpu)
    rate = 2.0 * _GPU_BYTES / _time(copy, seconds)
    expected = torch.arange(len(target), dtype=torch.int32, device=target.device)
    wrong = int((target != expected).sum())
    return Measurement(
        check=NAME,
        subject=f"cuda:{gpu}",
        metric="cuda",
        value=rate / 1e9,
        unit="GB/s",
        fault=Verdict.CORRUPT if wrong else None,
        detail=f"{wrong} elements are wrong" if wrong else "",
    )
