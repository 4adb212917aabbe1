"""The rank of `opsuite bench baselines`: it steps when it is told to."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from engine.training.worker import run_rank
from opsuite.bench.baselines_run import PIPES

if TYPE_CHECKING:
    from pathlib import Path

    from engine.training.config import RunConfig
    from engine.training.job import Job


class InTurn:
    """A step hook; the turn ends where the next step would begin, so that all between counts."""

    def __init__(self, prefix: str) -> None:
        self._go = os.open(f"{prefix}.go", os.O_RDONLY)
        self._done = os.open(f"{prefix}.done", os.O_WRONLY)
        self._begun = False

    def on_step_begin(self, step: int) -> None:
        """Say that the step before is over, and wait for the turn."""
        if self._begun:
            os.write(self._done, b".")
        self._begun = True
        os.read(self._go, 1)

    def on_step_end(self, step: int) -> None:
        """Nothing: what follows belongs to the step."""

    def close(self) -> None:
        """The last step is over."""
        os.write(self._done, b".")


def _train(run: Path, job: Job, config: RunConfig) -> None:
    from engine.training.session import open_rank_recorder, train_recorded

    with closing(open_rank_recorder(run, job, config)) as recorder:
        in_turn = InTurn(os.environ[PIPES])
        train_recorded(run, job, config, recorder, hooks=lambda mesh, replica: [in_turn])


if __name__ == "__main__":
    run_rank(_train)
