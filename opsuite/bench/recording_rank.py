"""A rank that records every other step only, and times all of them: what recording costs a step.

The benchmark ``recorder`` launches it in place of the usual worker.
"""

from __future__ import annotations

import json
import os
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING

from collectors.recorder import NullRecorder
from engine.training.worker import run_rank

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from collectors.recorder import Recorder
    from engine.training.config import RunConfig
    from engine.training.job import Job


class AlternatingRecorder:
    """Hands calls to a recorder, or to none: see :class:`collectors.recorder.Recorder`."""

    def __init__(self, recorder: Recorder) -> None:
        self._on = recorder
        self._off = NullRecorder()
        self._current: Recorder = recorder

    def switch(self, *, on: bool) -> None:
        """Record, or not, from here on."""
        self._current = self._on if on else self._off

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        return self._current.span(name, step)

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        self._current.record_span(name, start_ns, end_ns, step)

    def collective(self, name: str, **facts: Any) -> None:  # noqa: ANN401 - passed on
        self._current.collective(name, **facts)

    def sample(self, name: str, value: float, step: int = -1) -> None:
        self._current.sample(name, value, step)

    def event(
        self,
        name: str,
        *,
        subject: int = -1,
        value: float = float("nan"),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self._current.event(name, subject=subject, value=value, attributes=attributes)

    def close(self) -> None:
        self._on.close()


class StepStopwatch:
    """Times whole steps, samples included, by a clock of its own; switches recording between."""

    def __init__(self, recorder: AlternatingRecorder, output: Path) -> None:
        self._recorder = recorder
        self._output = output
        self._seconds: dict[bool, list[float]] = {True: [], False: []}
        self._start = 0.0

    def on_step_begin(self, step: int) -> None:
        """Start the watch."""
        self._recorder.switch(on=step % 2 == 1)
        self._start = perf_counter()

    def on_step_end(self, step: int) -> None:
        """Stop it."""
        self._seconds[step % 2 == 1].append(perf_counter() - self._start)

    def close(self) -> None:
        """Write what was measured."""
        data = {"on": self._seconds[True], "off": self._seconds[False]}
        self._output.write_text(json.dumps(data), encoding="utf-8")


def output_path(run: Path, rank: int) -> Path:
    """Where a rank leaves its step times: seconds with recording ``on`` and ``off``."""
    return run / f"recording-cost-{rank}.json"


def _train(run: Path, job: Job, config: RunConfig) -> None:
    from engine.training.session import open_rank_recorder, train_recorded

    with closing(AlternatingRecorder(open_rank_recorder(run, job, config))) as recorder:
        watch = StepStopwatch(recorder, output_path(run, int(os.environ["RANK"])))
        train_recorded(run, job, config, recorder, hooks=lambda mesh, model: [watch])


if __name__ == "__main__":
    run_rank(_train)
