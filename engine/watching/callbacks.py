"""Callbacks by which trainers of other libraries tell what they do: a step's number, evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.watching.rank import WatchedRank

    Begin = Callable[[Any, Any], WatchedRank | None]


def hugging_face_callback(begin: Begin) -> Any:
    """A callback for ``transformers.Trainer``.

    Args:
        begin: given model and optimizer, watches this process.
    """
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        """Watches from the beginning of training to its end."""

        def __init__(self) -> None:
            self._rank: WatchedRank | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._rank = begin(kwargs.get("model"), kwargs.get("optimizer"))

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._rank is not None:
                self._rank.timeline.number(state.global_step + 1)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if self._rank is not None:
                self._rank.close()
                self._rank = None

    return Callback()


def lightning_callback(begin: Begin) -> Any:
    """A callback for Lightning's ``Trainer``; ``begin`` as above."""
    try:
        from lightning.pytorch import Callback as LightningCallback
    except ImportError:
        from pytorch_lightning import Callback as LightningCallback

    class Callback(LightningCallback):  # type: ignore[misc]  # it is not installed everywhere
        """Watches from the beginning of training to its end."""

        def __init__(self) -> None:
            self._rank: WatchedRank | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            optimizers = trainer.optimizers
            self._rank = begin(trainer.model, optimizers[0] if optimizers else None)

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if self._rank is not None:
                self._rank.timeline.number(trainer.global_step + 1)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            if self._rank is not None:
                self._rank.close()
                self._rank = None

    return Callback()
