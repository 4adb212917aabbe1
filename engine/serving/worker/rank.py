"""One rank of an engine: its part of the model, and its cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from collectors.errors import DataError, UsageError
from collectors.recorder import NullRecorder
from engine.devices import pick_device
from engine.groups.group import CurrentStep
from engine.models.huggingface import load_config
from engine.overlap.tensor_parallel import TensorParallelGroup
from engine.serving.config import ServingConfig
from engine.serving.loader import load_model
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.runner import PagedRunner
from engine.serving.paged.storage import Storage
from engine.serving.worker.capacity import limits_of

if TYPE_CHECKING:
    from engine.models.transformer import Transformer
    from engine.scheduling.limits import Limits
    from engine.serving.wire import Start


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Before its cache is there: that depends on the memory that the model leaves.

    Attributes:
        max_len: most tokens of a request.
    """

    config: ServingConfig
    model: Transformer
    device: torch.device
    dtype: torch.dtype
    max_len: int

    def limits(self) -> Limits:
        """What this rank could hold. UsageError: not even one request."""
        return limits_of(
            self.config,
            self.model.config,
            max_len=self.max_len,
            device=self.device,
            dtype=self.dtype,
        )

    def runner(self, limits: Limits, salt: bytes) -> PagedRunner:
        """With a cache; UsageError: there is no memory for it."""
        try:
            storage = Storage(
                self.model.config,
                limits,
                device=self.device,
                dtype=self.dtype,
                tp=self.config.tp,
            )
        except RuntimeError:  # torch's for memory that is not there, on the CPU and on GPUs
            raise UsageError(
                f"no memory for the keys and values of {limits.blocks * limits.block_tokens}"
                f" tokens, and {limits.host_blocks * limits.block_tokens} swapped ones",
                where=str(self.device),
                remedy="give a smaller --kv-tokens or --swap-gb",
            ) from None
        return PagedRunner(self.model, PagedCache(storage, limits, salt=salt))


def open_rank(start: Start, *, rank: int = 0, meeting: Path | None = None) -> Rank:
    """Load one rank's part of a model.

    Args:
        meeting: a file by which the ranks of a group find each other; None: there is one rank.

    Raises:
        UsageError, DataError: the model, or the way it is to be served, cannot be used.
    """
    config = ServingConfig.model_validate_json(start.config)
    directory = Path(start.directory)
    if config.threads:
        torch.set_num_threads(config.threads)
    device = pick_device(config.device, local_rank=rank, ranks=config.tp)
    shape = load_config(directory)
    _check_divides(config.tp, shape.n_heads, shape.n_kv_heads, shape.vocab_size)
    tp = _group(config, rank, meeting, device) if meeting else None
    model = load_model(directory, device, tp)
    return Rank(
        config=config,
        model=model,
        device=device,
        dtype=model.lm_head.weight.dtype,
        max_len=config.max_len or shape.max_seq_len,
    )


def _check_divides(tp: int, *numbers: int) -> None:
    if any(number % tp for number in numbers):
        raise DataError(
            f"{tp} processes cannot share a model with {numbers[0]} heads, {numbers[1]} key heads"
            f" and {numbers[2]} tokens",
            where=f"--tp {tp}",
            remedy="give a --tp that divides them all",
        )


def _group(
    config: ServingConfig, rank: int, meeting: Path, device: torch.device
) -> TensorParallelGroup:
    backend = "gloo" if device.type == "cpu" else "nccl"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = FileStore(str(meeting), config.tp)
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.tp)
    return TensorParallelGroup(
        ranks=range(config.tp),
        global_rank=rank,
        process_group=dist.group.WORLD,
        recorder=NullRecorder(),
        current_step=CurrentStep(),
        synchronous=device.type == "cpu",
    )
