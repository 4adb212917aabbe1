"""Training on one GPU in bfloat16: what share of its peak, and which operators bring it there."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own idiom

from benchmarks.baselines.plain_loop import Model
from benchmarks.gpu.session import clocks
from collectors.recorder import NullRecorder
from engine.groups.group import CurrentStep
from engine.models.flops import flops_of_token
from engine.peak import peak_of
from engine.training.config import RunConfig
from engine.training.mesh import open_mesh
from engine.training.phases import Phases
from engine.training.replica import build_replica, precision_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor

    from benchmarks.gpu.session import Session

    Step = Callable[[], object]

TARGET_MFU = 0.60
_WARM_UP, _STEPS = 2, 5


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train the model.

    Attributes:
        plain: a compiled loop as one writes it by hand, instead of opsuite's engine.
    """

    name: str
    train: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False


VARIANTS = (
    Variant(name="opsuite, Triton's operators", train={"operators": "triton"}),
    Variant(name="a plain loop, torch.compile, autocast", plain=True),
    Variant(name="opsuite, compiled regions", train={"operators": "compiled"}),
    Variant(name="opsuite, torch's operators", train={"operators": "torch"}),
    Variant(name="opsuite, parallel blocks", model={"parallel_block": True}),
    Variant(name="opsuite, a window of a quarter", model={"window": 1024}),
)


def time_training(session: Session) -> list[dict[str, Any]]:
    """Tokens a second and MFU of each variant, one after the other: two do not fit."""
    return [_timed(session, variant) for variant in VARIANTS]


def _timed(session: Session, variant: Variant) -> dict[str, Any]:
    if not session.has(90):
        return {"name": variant.name, "skipped": "no time left"}
    config = _config(session, variant)
    told = {"name": variant.name, "config": config.model_dump(include={"model", "data", "train"})}
    for step in _plain(session, config) if variant.plain else _own(config):
        told |= _figures(session, config, step)
    gc.collect()
    if not session.dry:
        torch.cuda.empty_cache()
    return told


def _figures(session: Session, config: RunConfig, step: Step) -> dict[str, Any]:
    warm_up, steps = (0, 1) if session.dry else (_WARM_UP, _STEPS)
    seconds = [_seconds(session, step) for _ in range(warm_up + steps)][warm_up:]
    rate = config.tokens_per_step / median(seconds)
    of_token = flops_of_token(config.model, config.data.seq_len)
    peak = peak_of(session.device, precision_of(config))
    return {
        "step_s": seconds,
        "tokens_per_s": rate,
        "mfu_causal": rate * of_token.causal / peak.flops,
        "mfu_full": rate * of_token.full / peak.flops,
        "target_mfu_causal": TARGET_MFU,
        "parameters": of_token.parameters,
        "peak": peak.source,
        "clocks_under_load": _clocks_during(session, step),
        "memory_bytes": 0 if session.dry else torch.cuda.max_memory_allocated(session.device),
        "longest_kernels": _longest(session, step),
    }


def _seconds(session: Session, step: Step) -> float:
    begun = time.perf_counter()
    step()
    _await(session)
    return time.perf_counter() - begun


def _await(session: Session) -> None:
    if not session.dry:
        torch.cuda.synchronize(session.device)


def _clocks_during(session: Session, step: Step) -> str:
    """As they are while a step is computed."""
    step()
    told = clocks()
    _await(session)
    return told


def _longest(session: Session, step: Step, most: int = 20) -> list[dict[str, Any]]:
    """The kernels that a step spends its time in: what is in the way."""
    if session.dry:
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        _seconds(session, step)
    found = sorted(profile.key_averages(), key=lambda each: -each.self_device_time_total)
    return [
        {"kernel": each.key[:90], "ms": each.self_device_time_total / 1e3, "calls": each.count}
        for each in found[:most]
    ]


def _own(config: RunConfig) -> Iterator[Step]:
    """A step of opsuite's engine, without the trainer around it: nothing is loaded or saved."""
    recorder, current = NullRecorder(), CurrentStep()
    with open_mesh(config.parallel, recorder=recorder, current_step=current) as mesh:
        replica = build_replica(config, mesh, Phases(recorder, current), recorder)
        tokens, targets = _batch(config, mesh.device)
        count = 0

        def step() -> None:
            nonlocal count
            count += 1
            replica.micro_batches.run(tokens, targets, count)
            for weight in replica.optimizer.weights:
                weight.take_gradient()
            replica.optimizer.step(count)
            for weight in replica.optimizer.weights:
                weight.drop_gradient()

        yield step


def _plain(session: Session, config: RunConfig) -> Iterator[Step]:
    shape = config.model
    task = {
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "n_layers": shape.n_layers,
        "n_heads": shape.n_heads,
        "n_kv_heads": shape.n_kv_heads,
        "intermediate_size": shape.intermediate_size,
        "seq_len": config.data.seq_len,
    }
    with session.device:
        model = Model(task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=True)
    compiled = model if session.dry else torch.compile(model)
    tokens, targets = _batch(config, session.device)
    count = config.train.micro_batches

    def step() -> None:
        for some, wanted in zip(tokens.chunk(count), targets.chunk(count), strict=True):
            with torch.autocast(session.device.type, torch.bfloat16):
                logits = compiled(some)
                loss = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())
            torch.autograd.backward(loss / count)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    yield step


def _batch(config: RunConfig, device: torch.device) -> tuple[Tensor, Tensor]:
    shape = (config.train.batch_size, config.data.seq_len)
    drawn = torch.randint(0, config.model.vocab_size, (2, *shape), device=device)
    return drawn[0], drawn[1]


def _config(session: Session, variant: Variant) -> RunConfig:
    """Of 3.5 billion parameters, in Llama 3's proportions; small in a dry run."""
    model: dict[str, Any] = {
        "vocab_size": 32_768,
        "hidden_size": 4096,
        "n_layers": 16,
        "n_heads": 32,
        "n_kv_heads": 8,
        "intermediate_size": 14_336,
        "max_seq_len": 4096,
    }
    if session.dry:
        model |= {"vocab_size": 512, "hidden_size": 64, "n_layers": 2, "n_heads": 4}
        model |= {"n_kv_heads": 2, "intermediate_size": 128, "max_seq_len": 32}
    window = {"window": 8} if session.dry and "window" in variant.model else {}
    sequences, count = (2, 2) if session.dry else (16, 4)
    # The interpreter knows no bf16 memory, and is slow: torch's operators show the way.
    operators = {"operators": "torch"} if session.dry else {}
    return RunConfig.model_validate(
        {
            "model": {**model, **variant.model, **window},
            "data": {"seq_len": model["max_seq_len"]},
            "train": {
                "batch_size": sequences,
                "micro_batches": count,
                "precision": "bfloat16",
                **variant.train,
                **operators,
            },
            "parallel": {"device": session.device.type},
        }
    )
