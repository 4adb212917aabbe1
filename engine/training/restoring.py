"""Reading a checkpoint back, into whatever mesh there is now.

Of the ranks that hold parts of the same tensors for different data (a data-parallel group), the
first reads from the disk what they need together, and sends it to the others (MegaScale, section
4.4): the storage sees one reader for each part of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from collectors.errors import DataError
from engine.training.checkpoint import STATE
from engine.training.state import StateLayout, alone, state_parts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from engine.training.checkpoint import Checkpoint
    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer
    from engine.training.weights import Weight


def restore(checkpoint: Checkpoint, optimizer: Optimizer, mesh: Mesh) -> None:
    """Take this rank's parts of the weights and moments; every rank calls this.

    Raises:
        DataError: a tensor is missing, or of another shape.
    """
    _read(checkpoint.path / STATE, list(state_parts(optimizer)), mesh)
    optimizer.publish()
    optimizer.go_on_after(checkpoint.step)


def begin_from(model: Path, optimizer: Optimizer, mesh: Mesh) -> None:
    """Take this rank's parts of the weights in a Hugging Face directory; every rank calls this.

    Raises:
        DataError: a tensor is missing, or of another shape.
    """
    _read(model, [(weight.name, weight.part, weight) for weight in optimizer.weights], mesh)
    optimizer.publish()


@torch.no_grad()
def _read(directory: Path, parts: list[tuple[str, Tensor, Weight]], mesh: Mesh) -> None:
    found: dict[str, Tensor] = {}
    if mesh.dp.rank == 0:
        found = {name: torch.empty(weight.tp_shape) for name, _, weight in parts}
        layout = StateLayout(mesh)
        whole = {name: layout.tp_whole(found[name], weight) for name, _, weight in parts}
        read_tensors(directory, whole)
    for name, part, weight in parts:
        part.copy_(_own(found.get(name), weight, mesh))


def read_tensors(directory: Path, into: Mapping[str, Tensor]) -> None:
    """Fill tensors, or parts of them, with what the ranks' files hold under their names.

    Raises:
        DataError: a file is unreadable, or a tensor is missing or of another shape.
    """
    from safetensors import SafetensorError

    reader = HuggingFaceStorageReader(path=str(directory))
    try:
        _check_names(directory, reader, into)
        with alone():
            load(dict(into), storage_reader=reader, no_dist=True)
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DataError(f"unreadable: {error}", where=str(directory)) from error
    except CheckpointException as failed:
        first = next(iter(failed.failures.values()))[0]
        raise DataError(f"unreadable: {first}", where=str(directory)) from failed


def _check_names(
    directory: Path, reader: HuggingFaceStorageReader, into: Mapping[str, Tensor]
) -> None:
    known = reader.read_metadata().state_dict_metadata
    for name, tensor in into.items():
        stored = known.get(name)
        found = tuple(stored.size) if isinstance(stored, TensorStorageMetadata) else None
        if found != tuple(tensor.shape):
            has = "nothing" if found is None else f"shape {found}"
            raise DataError(
                f"the checkpoint holds {has} for {name}, the run needs {tuple(tensor.shape)}",
                where=str(directory),
            )


def _own(whole: Tensor | None, weight: Weight, mesh: Mesh) -> Tensor:
    """This rank's part of what the first rank of the data-parallel group has read."""
    if mesh.dp.size == 1:
        assert whole is not None
        return whole
    held = torch.empty(weight.tp_shape) if whole is None else whole
    return _dp_part(mesh.dp.broadcast(held.to(mesh.device)), mesh)


def _dp_part(whole: Tensor, mesh: Mesh) -> Tensor:
    """As FSDP cuts: the first dimension, the last ranks may get less or nothing."""
    if mesh.dp.size == 1:
        return whole
    chunks = whole.chunk(mesh.dp.size)
    return chunks[mesh.dp.rank] if mesh.dp.rank < len(chunks) else whole[:0]
