"""A profile of a model on this machine: measured by the processes that would serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
import torch.distributed as dist

from engine.models.huggingface import load_config
from engine.overlap.tuning_cache import arch_of
from engine.profiles.profile import Configuration, Profile
from engine.serving.config import require_in_context
from engine.serving.wire import Start
from engine.serving.worker.calibration import full_plan, measure
from engine.serving.worker.first_rank import first_rank

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.models.transformer import Transformer
    from engine.scheduling.limits import Limits
    from engine.serving.config import ServingConfig
    from engine.serving.worker.calibration import Plan

MOST_TOKENS = 4096  # of a request, unless told: a model's whole context may take hours


def profile_model(
    directory: Path,
    configs: Sequence[ServingConfig],
    *,
    name: str,
    rounds: int,
    told: Callable[[str], None],
) -> Profile:
    """Measure a model under each config, one after another; they differ in ``tp`` only.

    Args:
        told: of each round, for people.

    Raises:
        UsageError, DataError: the model, or a way to spread it, cannot be used.
    """
    profiles = [_profile(directory, config, name, rounds, told) for config in configs]
    together = tuple(each.configurations[0] for each in profiles)
    return profiles[0].model_copy(update={"configurations": together})


def longest_request(directory: Path, wanted: int | None) -> int:
    """Most tokens of a request: as wanted, or as is usual.

    Raises:
        UsageError, DataError: the directory's model cannot be used, or not for so many.
    """
    context = load_config(directory).max_seq_len
    require_in_context(wanted, context)
    return wanted or min(context, MOST_TOKENS)


def _profile(
    directory: Path, config: ServingConfig, name: str, rounds: int, told: Callable[[str], None]
) -> Profile:
    """Of one number of ranks, of which this process is the first."""
    start = Start(directory=str(directory.resolve()), config=config.model_dump_json())

    def plan_of(limits: Limits, max_len: int) -> Plan:
        return full_plan(limits, max_len=max_len, rounds=rounds)

    with first_rank(start, config, plan_of) as first:
        try:
            rank, plan = first.rank, first.plan
            assert plan is not None, "there is always something to measure"
            weight_bytes = _weight_bytes(rank.model)
            with _Activations(rank.device) as activations:
                prefills, decodes = measure(
                    first.runner, plan, lambda text: told(f"tp {config.tp}: {text}")
                )
        finally:
            if first.followers:
                dist.destroy_process_group()
    shape, dtype = rank.model.config, rank.dtype
    return Profile(
        model=name,
        device=arch_of(rank.device),
        origin="measured",
        note=f"{str(dtype).removeprefix('torch.')}, torch {torch.__version__},"
        f" medians of {rounds} rounds, each until the chosen tokens are on the host",
        kv_bytes_per_token=shape.kv_values * dtype.itemsize,
        configurations=(
            Configuration(
                op=config.tp,
                weight_bytes=(weight_bytes,),
                activation_bytes=activations.peak,
                prefill=tuple(prefills),
                decode=tuple(decodes),
            ),
        ),
    )


def _weight_bytes(model: Transformer) -> int:
    """Of one rank; what two layers share counts once."""
    return sum(each.numel() * each.element_size() for each in model.parameters())


class _Activations:
    """What a device's memory held at most beside what was there at first.

    Attributes:
        peak: bytes, in the form of a profile; () on a CPU, which does not say.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0
        self.peak: tuple[int, ...] = ()

    def __enter__(self) -> Self:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.peak = (torch.cuda.max_memory_allocated(self._device) - self._before,)
