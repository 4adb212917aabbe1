"""What a training run is made of. No torch here: the base install checks configurations too."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from collectors.configuration import Config
from engine.models.config import ModelConfig
from engine.resilience.config import ResilienceConfig


class DataConfig(Config):
    """The text that the model reads."""

    paths: list[str] = Field(
        default_factory=list,
        description="text, JSONL, Parquet, directories, one .npy of tokens; none: Python's library",
    )
    max_bytes: int = Field(4_000_000, ge=1_000, description="text read at most, in bytes of UTF-8")
    share: bool = Field(True, description="one loader for all ranks of a host; else each its own")
    seq_len: int = Field(128, ge=2, le=4_194_304, description="tokens in a sequence")


class TrainConfig(Config):
    """How long, and on how much at a time."""

    steps: int = Field(150, ge=1, le=10_000_000, description="optimiser steps")
    batch_size: int = Field(8, ge=1, le=1_000_000, description="sequences in a step, all ranks")
    micro_batches: int = Field(
        1, ge=1, le=65536, description="parts of a replica's batch, one after the other"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of the weights and the order of the data")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of products and activations; weights are trained in float32"
    )
    operators: Literal["auto", "torch", "compiled", "triton"] = Field(
        "auto", description="norms, rotations, gates; auto: Triton on GPUs, torch elsewhere"
    )
    own_gc: bool = Field(
        True, description="collect Python's garbage at the ends of steps only, on all ranks alike"
    )
    init_from: str = Field(
        "", description="Hugging Face directory whose weights and tokenizer to begin with"
    )


class OptimizerConfig(Config):
    """AdamW or LAMB, with a linear warm-up and a cosine decay."""

    rule: Literal["adamw", "lamb"] = Field(
        "adamw", description="lamb: steps as long as each tensor's norm says, for large batches"
    )
    lr: float = Field(1e-3, gt=0, le=10, description="learning rate after the warm-up")
    min_lr: float = Field(1e-4, ge=0, le=10, description="learning rate at the end")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    decay_steps: int = Field(0, ge=0, description="step at which min_lr is reached; 0: train.steps")
    weight_decay: float = Field(0.1, ge=0, le=10, description="decoupled, on matrices only")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the gradient's mean")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of its square's mean")
    eps: float = Field(1e-8, gt=0, lt=1, description="added to the denominator")
    grad_clip: float = Field(1.0, ge=0, description="largest global gradient norm; 0: no limit")

    @model_validator(mode="after")
    def _decays(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError("min_lr must not exceed lr")
        return self


class ParallelConfig(Config):
    """How ranks share the model and the batch."""

    tp: int = Field(1, ge=1, le=1024, description="tensor parallel: ranks that split each matrix")
    pp: int = Field(1, ge=1, le=1024, description="pipeline parallel: ranks that split the layers")
    dp: int = Field(1, ge=1, le=65536, description="data parallel: ranks that split the batch")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="what ranks compute on")
    threads_per_rank: int = Field(1, ge=1, le=1024, description="CPU threads of a rank")
    split_tokens: bool = Field(
        True, description="tp ranks split the tokens between layers too (sequence parallelism)"
    )
    transport: Literal["auto", "shared", "collective"] = Field(
        "auto", description="how tp ranks communicate: shared memory, or torch.distributed"
    )
    schedule: Literal["1f1b", "coupled-1f1b", "gpipe", "zero-bubble", "zbv"] = Field(
        "1f1b", description="order of a pipeline's work; coupled: sending waits for receiving"
    )
    chunks: int = Field(
        1, ge=1, le=1024, description="stages of each pp rank; more than one: interleaved"
    )
    overlap_dp: bool = Field(
        True, description="gather weights ahead of their use, scatter gradients during backward"
    )
    keep_weights: bool = Field(
        True, description="gathered weights stay for backward (ZeRO-2); else gathered again (3)"
    )
    keep_gathered: bool = Field(
        False, description="keep gathered tokens for backward, instead of gathering them again"
    )
    peer_timeout_s: float = Field(
        300.0, gt=0, le=86_400, description="how long a tp rank waits for another that lives"
    )
    pin: bool = Field(True, description="give each rank cores of its own, if there are enough")

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.tp * self.pp * self.dp

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if self.pp == 1 and self.chunks > 1:
            raise ValueError("chunks are stages of a pipeline: they need pp above 1")
        only = {"coupled-1f1b": 1, "gpipe": 1, "zbv": 2}.get(self.schedule, self.chunks)
        if self.pp > 1 and self.chunks != only:
            raise ValueError(f"schedule {self.schedule!r} is for chunks = {only}")
        return self


class CheckpointConfig(Config):
    """When checkpoints are written, and how many stay."""

    every: int = Field(0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep: int = Field(2, ge=1, le=10_000, description="newest checkpoints that are kept")


class RunConfig(Config):
    """One training run."""

    name: str = Field(
        "run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="begins the run's id"
    )
    notes: str = Field("", max_length=10_000, description="for people; stored with the run")
    faults: list[str] = Field(
        default_factory=list, description="injected, such as slow-rank:rank=1,steps=60-110"
    )
    model: ModelConfig = Field(default_factory=ModelConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = Field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = Field(default_factory=CheckpointConfig)
    resilience: ResilienceConfig = Field(default_factory=ResilienceConfig)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        tp, pp, dp = self.parallel.tp, self.parallel.pp, self.parallel.dp
        for key, value in {
            "model.n_heads": self.model.n_heads,
            "model.n_kv_heads": self.model.n_kv_heads,
            "model.vocab_size": self.model.vocab_size,
            "model.intermediate_size": self.model.intermediate_size,
        }.items():
            _require_multiple(key, value, "parallel.tp", tp)
        count = self.train.micro_batches
        if count == 1:
            _require_multiple("train.batch_size", self.train.batch_size, "parallel.dp", dp)
        _require_multiple(
            "train.batch_size",
            self.train.batch_size,
            "parallel.dp x train.micro_batches",
            dp * count,
        )
        _require_multiple("train.micro_batches", count, "parallel.pp", pp)
        if pp * self.parallel.chunks > self.model.n_layers:
            raise ValueError(
                f"parallel.pp x parallel.chunks ({pp * self.parallel.chunks}) must not exceed"
                f" model.n_layers ({self.model.n_layers})"
            )
        if pp > 1 and self.model.tie_embeddings:
            raise ValueError(
                "model.tie_embeddings needs both ends of the model on one rank (pp = 1)"
            )
        if self.data.seq_len > self.model.max_seq_len:
            raise ValueError(
                f"data.seq_len ({self.data.seq_len}) must not exceed"
                f" model.max_seq_len ({self.model.max_seq_len})"
            )
        return self

    @property
    def decay_steps(self) -> int:
        """The step at which the learning rate reaches its end."""
        return self.optimizer.decay_steps or self.train.steps

    @property
    def ranks_per_host(self) -> int:
        """Of each of the hosts that train."""
        return self.parallel.world_size // self.resilience.hosts

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all ranks together learn from in a step."""
        return self.train.batch_size * self.data.seq_len


def _require_multiple(key: str, value: int, divisor_key: str, divisor: int) -> None:
    if value % divisor:
        raise ValueError(f"{key} ({value}) must be a multiple of {divisor_key} ({divisor})")
