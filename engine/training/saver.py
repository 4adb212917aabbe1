"""Saving during training, in two stages: training waits for the first only.

The first copies the state to host memory. The second writes it, through torch's distributed
checkpoint in a thread of each rank, and publishes it; a save that fails is a warning. MegaScale
(section 4.4) does so, and saves the more often for it.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import save

from collectors.errors import OpsuiteError, StorageError
from collectors.level import Level, declare
from collectors.recorder import NullRecorder
from engine.models.huggingface import save_description
from engine.training.checkpoint import STATE, Progress, fingerprint, flush, storage_error
from engine.training.staging import Staging
from engine.training.state import alone
from engine.training.storage_pace import StoragePace

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.recorder import Recorder
    from engine.models.config import ModelConfig
    from engine.training.checkpoint import CheckpointStore, Fingerprint
    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer

_log = logging.getLogger("opsuite")
_WRITING = "checkpoint.write"
_AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_FILE_BYTES = 256 << 20  # a file is put together in memory: what that may take
declare(Level.ALWAYS, _WRITING)


class Saver:
    """Every rank has one, and all call it alike.

    Args:
        tokenizer_json: goes with the weights, so that they can be served.
        corpus: key of the data.

    Attributes:
        latest: the last checkpoint that was published, or None where the last save failed.
        warnings: one line for each failed save.
    """

    def __init__(
        self,
        *,
        store: CheckpointStore,
        model: ModelConfig,
        optimizer: Optimizer,
        mesh: Mesh,
        tokenizer_json: str | None,
        corpus: str,
        recorder: Recorder,
    ) -> None:
        self.latest: Path | None = None
        self.warnings: list[str] = []
        self._store = store
        self._model = model
        self._mesh = mesh
        self._tokenizer_json = tokenizer_json
        self._corpus = corpus
        self._recorder = recorder
        self._staging = Staging(optimizer, mesh)
        self._files = _files(self._staging, mesh)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        # All ranks wait for the slowest: one tells.
        told = recorder if mesh.rank == 0 else NullRecorder()
        self._pace = StoragePace(told, self._staging.nbytes)

    def save(self, step: int, samples: int) -> None:
        """Take the state after ``step``, and write it while training goes on.

        Waits for the save before, if that still goes on: there is one copy in memory.
        """
        begun = time.monotonic()
        self.finish()
        self._pace.waited(time.monotonic() - begun, step)
        self._mesh.tp.check()
        self._staging.copy()
        progress = Progress(step=step, samples=samples, corpus=self._corpus)
        self._writing = self._thread.submit(self._write, progress)

    def finish_last(self, step: int, samples: int) -> None:
        """The same of the run's last one, which is tried again for a while where the storage
        refuses: no later one will make up for it."""
        self.finish()
        for pause_s in _AGAIN_S:
            published = torch.tensor(float(self.latest is not None), device=self._mesh.device)
            if self._mesh.world.broadcast(published):
                return
            time.sleep(pause_s)
            self.save(step, samples)
            self.finish()

    def finish(self) -> None:
        """Wait until what was taken is on the disk, or has failed."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """No more will be saved; what is being written is left to its fate."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _write(self, progress: Progress) -> None:
        try:
            begun = time.monotonic()
            with self._recorder.span(_WRITING, progress.step):
                self.latest = self._write_all(progress)
            self._pace.wrote(time.monotonic() - begun, progress.step)
        except StorageError as error:
            self.latest = None
            if self._mesh.rank == 0:
                self._store.abandon(progress.step)
                self._warn(progress.step, error)

    def _write_all(self, progress: Progress) -> Path | None:
        """Publish the state as a whole, or nothing at all; gives its path on rank 0."""
        aside = self._store.aside(progress.step)
        if self._mesh.rank == 0:
            self._together(progress, lambda: self._store.prepare(progress.step))
        else:
            self._together(progress, lambda: None)
        self._write_shards(aside / STATE, progress)
        found = self._together(progress, lambda: _own_files(aside, self._mesh.rank))
        if self._mesh.rank != 0:
            return None
        try:
            save_description(aside, self._model, self._tokenizer_json)
            return self._store.publish(progress, {k: v for each in found for k, v in each.items()})
        except OSError as error:
            raise storage_error(error, progress.step) from error

    def _write_shards(self, directory: Path, progress: Progress) -> None:
        writer = HuggingFaceStorageWriter(
            path=str(directory), save_distributed=True, fqn_to_index_mapping=self._files
        )
        background = self._mesh.background
        try:
            with alone() if background is None else nullcontext():
                save(
                    self._staging.tensors,
                    storage_writer=writer,
                    process_group=background,
                    no_dist=background is None,
                )
        except CheckpointException as failed:
            first = next(iter(failed.failures.values()))[0]
            _raise_from(first, progress.step)
        except OSError as error:
            raise storage_error(error, progress.step) from error

    def _together(self, progress: Progress, do: Any) -> list[Any]:  # noqa: ANN401
        """What every rank's ``do`` gives; an error of one is everyone's."""
        own: Any = None
        error: OSError | None = None
        try:
            own = do()
        except OSError as raised:
            error = raised
        results: list[Any] = [(own, error)]
        if self._mesh.background is not None:
            results = [None] * self._mesh.world.size
            dist.all_gather_object(results, (own, error), group=self._mesh.background)
        for _, each in results:
            if each is not None:
                raise storage_error(each, progress.step) from each
        return [own for own, _ in results]

    def _warn(self, step: int, error: OpsuiteError) -> None:
        self.warnings.append(f"checkpoint after step {step} failed: {error}")
        _log.warning("%s", self.warnings[-1])
        self._recorder.event("checkpoint.failed", subject=step, attributes={"error": str(error)})


def _raise_from(error: BaseException, step: int) -> None:
    """A disk's error as what it is; anything else is our own mistake."""
    if isinstance(error, OSError):
        raise storage_error(error, step) from error
    raise error


def _own_files(aside: Path, rank: int) -> dict[str, Fingerprint]:
    """Flush what this rank wrote; torch names files by the rank, from 1."""
    found = {}
    for path in sorted((aside / STATE).glob(f"shard-{rank + 1:05d}-*.safetensors")):
        flush(path)
        found[f"{STATE}/{path.name}"] = fingerprint(path)
    return found


def _files(staging: Staging, mesh: Mesh) -> dict[str, int]:
    """Which file of a rank a tensor goes to: rank 0 says so for all, whose stages differ."""
    own = {name: tensor.nbytes for name, tensor in staging.tensors.items()}
    every: list[dict[str, int]] = [own]
    if mesh.background is not None:
        every = [{}] * mesh.world.size
        dist.all_gather_object(every, own, group=mesh.background)
    sizes = {name: nbytes for each in every for name, nbytes in each.items()}
    limit = _FILE_BYTES * max(1, mesh.tp.size * mesh.dp.size)
    index, filled, files = 1, 0, {}
    for name in sorted(sizes):
        if filled and filled + sizes[name] > limit:
            index, filled = index + 1, 0
        filled += sizes[name]
        files[name] = index
    return files
