"""A profile of elastic instances on this machine: of every degree of parallelism."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from engine.devices import pick_device
from engine.overlap.tuning_cache import arch_of
from engine.profiles.profile import Configuration, Profile
from engine.serving.fleet.calibration import Calibration
from engine.serving.fleet.crew import Crew
from engine.serving.wire import Start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from engine.serving.config import ServingConfig


def profile_fleet(
    directory: Path,
    config: ServingConfig,
    *,
    name: str,
    rounds: int,
    told: Callable[[str], None],
) -> Profile:
    """Measure groups of 1, 2, 4 ... and all instances of a config.

    Args:
        told: of each round, for people.

    Raises:
        UsageError, DataError: the model, or a way to spread it, cannot be used.
        RunFailed: an instance died.
    """
    start = Start(directory=str(directory.resolve()), config=config.model_dump_json())
    with Crew(start, instances=config.instances, tp=config.tp, slots=config.kv_tokens) as crew:
        crew.await_all()
        shape = crew.shape()
        found = Calibration(crew).samples(
            longest=config.prefill_tokens, max_batch=config.max_batch, rounds=rounds, told=told
        )
    return Profile(
        model=name,
        device=arch_of(pick_device(config.device)),
        origin="measured",
        note=f"elastic instances, torch {torch.__version__}, medians of {rounds} rounds",
        kv_bytes_per_token=shape.kv_bytes_per_token,
        configurations=tuple(
            Configuration(
                op=config.tp,
                sp=size,
                weight_bytes=(shape.weight_bytes,),
                prefill=tuple(prefills),
                decode=tuple(decodes),
            )
            for size, (prefills, decodes) in found.items()
        ),
    )
