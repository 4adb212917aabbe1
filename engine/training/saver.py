"""Saving during training: what is gathered where, and what a failed save means."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from collectors.errors import StorageError
from engine.training.state import gather_state

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.recorder import Recorder
    from engine.models.transformer import Transformer
    from engine.training.checkpoint import CheckpointStore
    from engine.training.corpus import Corpus
    from engine.training.mesh import Mesh
    from engine.training.optimizer import Optimizer

_log = logging.getLogger("opsuite")


class Saver:
    """Writes checkpoints from rank 0; a failed one is a warning, and training goes on.

    Attributes:
        latest: the last checkpoint, or None where the last save failed.
        warnings: one line for each failed save.
    """

    def __init__(
        self,
        *,
        store: CheckpointStore,
        model: Transformer,
        optimizer: Optimizer,
        mesh: Mesh,
        corpus: Corpus,
        recorder: Recorder,
    ) -> None:
        self.latest: Path | None = None
        self.warnings: list[str] = []
        self._store = store
        self._model = model
        self._optimizer = optimizer
        self._mesh = mesh
        self._corpus = corpus
        self._recorder = recorder

    def save(self, step: int) -> None:
        """Save the state after ``step``; every rank calls this."""
        if self._mesh.dp.rank != 0:
            return  # replicas hold the same
        state = gather_state(self._model, self._optimizer, self._mesh.tp)
        self._mesh.tp.check()
        if self._mesh.rank != 0:
            return
        try:
            self.latest = self._store.save(
                state,
                step=step,
                model=self._model.config,
                tokenizer_json=self._corpus.tokenizer_json,
                corpus=self._corpus.directory.name,
            )
        except StorageError as error:
            self.latest = None
            self.warnings.append(f"checkpoint after step {step} failed: {error}")
            _log.warning("%s", self.warnings[-1])
            self._recorder.event(
                "checkpoint.failed", subject=step, attributes={"error": str(error)}
            )
