"""What may happen around the steps of a rank: injected faults, measurements."""

from __future__ import annotations

from typing import Protocol


class StepHook(Protocol):
    """Driven by the rank's steps, in its own process."""

    def on_step_begin(self, step: int) -> None:
        """Called before ``step`` (from 1) begins."""

    def on_step_end(self, step: int) -> None:
        """Called after ``step`` has ended."""

    def close(self) -> None:
        """Called once, however the run ends."""
