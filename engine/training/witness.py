"""Who is told what every step of a rank comes to, and may look at its weights in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StepNumbers:
    """One step of one rank.

    Attributes:
        seconds: from the end of the step before (or the beginning) to its end, a checkpoint after
            it included; of these ``data_s`` waiting for the batch, ``checkpoint_s`` for the
            checkpoint's first stage.
        loss, norm: of the whole batch, and of the whole gradient.
        own_norm: of this rank's gradient before any other's is added; None where nobody looked.
    """

    step: int
    seconds: float
    data_s: float
    checkpoint_s: float
    loss: float
    norm: float
    own_norm: float | None


class Witness(Protocol):
    """Called by a trainer, in its own thread."""

    def begins(self) -> None:
        """The first step begins."""
        ...

    def before(self, step: int) -> None:
        """A step begins."""
        ...

    def updated(self, step: int) -> None:
        """The weights are now those after ``step``."""
        ...

    def done(self, numbers: StepNumbers) -> None:
        """A step is over."""
        ...
