"""What one rank trains: its parts of the model, cut and driven as the mesh asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from engine.models.initialization import initialize
from engine.models.operations import operations
from engine.models.transformer import Transformer
from engine.training.data_parallel import DataParallel
from engine.training.micro_batches import Accumulation
from engine.training.optimizer import Optimizer
from engine.training.pipeline import Pipeline, parts_of
from engine.training.weights import tp_cuts, weights_of

if TYPE_CHECKING:
    from collectors.recorder import Recorder
    from engine.models.partition import Part
    from engine.training.config import RunConfig
    from engine.training.mesh import Mesh
    from engine.training.micro_batches import MicroBatches
    from engine.training.phases import Phases


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One rank's share of a replica of the model.

    Attributes:
        parts: of the model, in the order of their stages; one without a pipeline.
        optimizer: of this rank's parts of the weights.
        micro_batches: do forward and backward.
        data_parallel: None where there is one replica.
    """

    parts: tuple[Transformer, ...]
    optimizer: Optimizer
    micro_batches: MicroBatches
    data_parallel: DataParallel | None


def build_replica(config: RunConfig, mesh: Mesh, phases: Phases, recorder: Recorder) -> Replica:
    """Make it, with the weights that the seed gives."""
    stages = parts_of(config.model, config.parallel, mesh.pp.rank)
    parts = tuple(_part(config, mesh, part) for _, part in stages)
    cuts = tp_cuts(parts)
    data_parallel = _data_parallel(config, mesh, parts)
    optimizer = Optimizer(
        weights_of(parts, cuts, precision_of(config)),
        config.optimizer,
        decay_steps=config.decay_steps,
        sharing=(mesh.tp, mesh.dp),
        staging=mesh.pp,
    )
    return Replica(
        parts=parts,
        optimizer=optimizer,
        micro_batches=_micro_batches(
            config,
            mesh,
            parts=parts,
            numbers=[number for number, _ in stages],
            data_parallel=data_parallel,
            phases=phases,
            recorder=recorder,
        ),
        data_parallel=data_parallel,
    )


def precision_of(config: RunConfig) -> torch.dtype:
    """Of products and activations."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.train.precision]


def _part(config: RunConfig, mesh: Mesh, part: Part) -> Transformer:
    with mesh.device:
        model = Transformer(
            config.model,
            mesh.tp,
            split=config.parallel.split_tokens,
            part=part,
            by=operations(config.train.operators, mesh.device),
        )
    initialize(model, config.train.seed, mesh.tp)
    return model


def _data_parallel(
    config: RunConfig, mesh: Mesh, parts: tuple[Transformer, ...]
) -> DataParallel | None:
    if mesh.dp.size == 1 or mesh.grid is None:
        return None
    return DataParallel(
        parts,
        group=mesh.dp,
        mesh=mesh.grid["dp"],
        overlap=config.parallel.overlap_dp,
        keep_gathered=config.parallel.keep_weights,
        dtype=precision_of(config),
    )


def _micro_batches(
    config: RunConfig,
    mesh: Mesh,
    *,
    parts: tuple[Transformer, ...],
    numbers: list[int],
    data_parallel: DataParallel | None,
    phases: Phases,
    recorder: Recorder,
) -> MicroBatches:
    count = config.train.micro_batches
    if mesh.pp.size == 1:
        [model] = parts
        return Accumulation(model, count=count, data_parallel=data_parallel, phases=phases)
    sequences = config.train.batch_size // (config.parallel.dp * count)
    return Pipeline(
        parts,
        numbers,
        parallel=config.parallel,
        group=mesh.pp,
        count=count,
        shape=(sequences, config.data.seq_len),
        device=mesh.device,
        dtype=precision_of(config),
        phases=phases,
        recorder=recorder,
    )
