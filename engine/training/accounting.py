"""What training achieves: tokens a second, and what share of the devices' peak (MFU)."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from engine.models.flops import flops_of_token
from engine.peak import Peak, peak_of
from engine.training.affinity import available_cores
from engine.training.replica import precision_of

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.training.config import RunConfig
    from engine.training.mesh import Mesh

ACCOUNTING = "accounting"
"""The event that tells by which numbers a run is accounted."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """By what a run is accounted.

    Attributes:
        parameters: that multiply, in the whole model.
        flops_full, flops_causal: operations of one token's training, by both conventions.
        peak_flops: operations a second of all devices together.
        peak: where that number is from.
    """

    parameters: int
    flops_full: float
    flops_causal: float
    peak_flops: float
    peak: str

    def __str__(self) -> str:
        return (
            f"MFU = tokens/s x FLOPs a token / peak; FLOPs a token: 6 x {self.parameters:,}"
            f" parameters + attention = {self.flops_full:.4g} (every token sees the whole sequence)"
            f" or {self.flops_causal:.4g} (what it does see); peak"
            f" {self.peak_flops / 1e12:.4g} TFLOP/s: {self.peak}"
        )


@dataclass(frozen=True, kw_only=True)
class Achieved:
    """Over some time.

    Attributes:
        tokens_per_s: of the whole run.
        mfu, mfu_causal: share of the peak, by both conventions.
    """

    tokens_per_s: float
    mfu: float
    mfu_causal: float


class Accounting:
    """Counts for the run on rank 0, and for each rank its memory.

    Args:
        pinned: whether each rank has cores of its own.
    """

    def __init__(
        self, config: RunConfig, mesh: Mesh, recorder: Recorder, *, pinned: bool = False
    ) -> None:
        self._mesh = mesh
        self._recorder = recorder
        self._tokens = config.tokens_per_step
        self.terms: Terms | None = None
        if mesh.rank == 0:
            self.terms = _terms(config, mesh, pinned=pinned)
            recorder.event(ACCOUNTING, attributes={**asdict(self.terms), "text": str(self.terms)})

    def achieved(self, seconds: float, steps: int = 1) -> Achieved | None:
        """By so many steps that took so long; None where another rank accounts."""
        if self.terms is None or seconds <= 0:
            return None
        rate = self._tokens * steps / seconds
        return Achieved(
            tokens_per_s=rate,
            mfu=rate * self.terms.flops_full / self.terms.peak_flops,
            mfu_causal=rate * self.terms.flops_causal / self.terms.peak_flops,
        )

    def record(self, step: int, seconds: float) -> None:
        """Sample what ``step`` achieved."""
        self._recorder.sample("memory_bytes", _memory(self._mesh.device), step)
        achieved = self.achieved(seconds)
        if achieved is not None:
            for name, value in asdict(achieved).items():
                self._recorder.sample(name, value, step)


def _terms(config: RunConfig, mesh: Mesh, *, pinned: bool) -> Terms:
    of_token = flops_of_token(config.model, config.data.seq_len)
    ranks = mesh.world.size
    peak = peak_of(mesh.device, precision_of(config))
    if mesh.device.type == "cpu" and not pinned:  # more ranks than cores do not compute more
        cores = len(available_cores() or range(ranks))
        ranks = min(ranks, max(1, cores // config.parallel.threads_per_rank))
    whole = Peak(flops=peak.flops * ranks, source=f"{ranks} x {peak.source}")
    return Terms(
        parameters=of_token.parameters,
        flops_full=of_token.full,
        flops_causal=of_token.causal,
        peak_flops=whole.flops,
        peak=whole.source,
    )


def _memory(device: torch.device) -> int:
    """The most that was allocated on a GPU; of a CPU's rank, what was resident at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
