"""One rank of an engine: its part of the model, and its cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore

from collectors.errors import UsageError
from collectors.recorder import NullRecorder
from engine.devices import pick_device
from engine.groups.group import CurrentStep
from engine.models.huggingface import load_config
from engine.models.partition import partition
from engine.overlap.tensor_parallel import TensorParallelGroup
from engine.serving.config import ServingConfig
from engine.serving.loader import load_model
from engine.serving.paged.cache import PagedCache
from engine.serving.paged.pipe import Pipe, RankPipe
from engine.serving.paged.runner import PagedRunner
from engine.serving.paged.storage import Storage
from engine.serving.worker.capacity import limits_of

if TYPE_CHECKING:
    from engine.models.config import ModelConfig
    from engine.models.transformer import Transformer
    from engine.scheduling.limits import Limits
    from engine.serving.wire import Start


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Before its cache is there: that depends on the memory that the model leaves.

    Attributes:
        max_len: most tokens of a request.
        pipe: to the neighbouring stages; None: there is one stage.
    """

    config: ServingConfig
    model: Transformer
    device: torch.device
    dtype: torch.dtype
    max_len: int
    pipe: Pipe | None

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
                layers=len(self.model.part.layers),
            )
        except RuntimeError:  # torch's for memory that is not there, on the CPU and on GPUs
            raise UsageError(
                f"no memory for the keys and values of {limits.blocks * limits.block_tokens}"
                f" tokens, and {limits.host_blocks * limits.block_tokens} swapped ones",
                where=str(self.device),
                remedy="give a smaller --kv-tokens or --swap-gb",
            ) from None
        return PagedRunner(self.model, PagedCache(storage, limits, salt=salt), self.pipe)


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
    device = pick_device(config.device, local_rank=rank, ranks=config.ranks)
    shape = load_config(directory)
    _check_divides(config, shape)
    stage, part = rank // config.tp, None
    if config.pp > 1:
        part = partition(shape.n_layers, config.pp)[stage]
    tp = _connect(config, rank, meeting, device) if meeting else None
    model = load_model(directory, device, tp if config.tp > 1 else None, part)
    dtype = next(model.parameters()).dtype
    return Rank(
        config=config,
        model=model,
        device=device,
        dtype=dtype,
        max_len=config.max_len or shape.max_seq_len,
        pipe=_pipe(config, rank, shape.hidden_size, device, dtype) if config.pp > 1 else None,
    )


def _check_divides(config: ServingConfig, shape: ModelConfig) -> None:
    tp = config.tp
    if any(number % tp for number in (shape.n_heads, shape.n_kv_heads, shape.vocab_size)):
        raise UsageError(
            f"{tp} processes cannot share a model with {shape.n_heads} heads, {shape.n_kv_heads}"
            f" key heads and {shape.vocab_size} tokens",
            where=f"--tp {tp}",
            remedy="give a --tp that divides them all",
        )
    if config.pp > shape.n_layers:
        raise UsageError(
            f"{shape.n_layers} layers cannot be cut into {config.pp} stages",
            where=f"--pp {config.pp}",
            remedy=f"give at most {shape.n_layers}",
        )


def _connect(
    config: ServingConfig, rank: int, meeting: Path, device: torch.device
) -> TensorParallelGroup:
    """With all ranks; the group of this rank's stage."""
    backend = "gloo" if device.type == "cpu" else "nccl"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store = FileStore(str(meeting), config.ranks)
    dist.init_process_group(backend, store=store, rank=rank, world_size=config.ranks)
    stages = [range(first, first + config.tp) for first in range(0, config.ranks, config.tp)]
    groups = [dist.new_group(list(ranks)) for ranks in stages]  # by all, in the same order
    return TensorParallelGroup(
        ranks=stages[rank // config.tp],
        global_rank=rank,
        process_group=groups[rank // config.tp],
        recorder=NullRecorder(),
        current_step=CurrentStep(),
        synchronous=device.type == "cpu",
    )


def _pipe(
    config: ServingConfig, rank: int, width: int, device: torch.device, dtype: torch.dtype
) -> Pipe:
    """To those who hold the same heads of the layers before and after."""
    before, after = rank - config.tp, rank + config.tp
    return RankPipe(
        before=before if before >= 0 else None,
        after=after if after < config.ranks else None,
        width=width,
        device=device,
        dtype=dtype,
    )
