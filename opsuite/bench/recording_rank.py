"""A rank that records every other step only, and times all of them: what recording costs a step.

Started by the benchmark ``recorder`` under torchrun's environment:
``python -P -m opsuite.bench.recording_rank RUN_DIR OUTPUT``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from collectors.recorder import NullRecorder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from collectors.recorder import Recorder


class AlternatingRecorder:
    """Hands calls to a recorder in odd steps, and to none in even ones."""

    def __init__(self, recorder: Recorder) -> None:
        self._on = recorder
        self._off = NullRecorder()
        self.current: Recorder = recorder

    def switch(self, *, on: bool) -> None:
        """Record, or not, from here on."""
        self.current = self._on if on else self._off

    def span(self, name: str, step: int = -1) -> AbstractContextManager[None]:
        """See :class:`collectors.recorder.Recorder`, as for all that follow."""
        return self.current.span(name, step)

    def record_span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        self.current.record_span(name, start_ns, end_ns, step)

    def collective(self, name: str, **facts: Any) -> None:  # noqa: ANN401 - passed on
        self.current.collective(name, **facts)

    def sample(self, name: str, value: float, step: int = -1) -> None:
        self.current.sample(name, value, step)

    def event(
        self,
        name: str,
        *,
        subject: int = -1,
        value: float = float("nan"),
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        self.current.event(name, subject=subject, value=value, attributes=attributes)

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


def main() -> None:
    """Train as the job says, with the stopwatch as a hook."""
    from engine.training.session import train_rank
    from engine.training.worker import settle

    run, output = Path(sys.argv[1]), Path(sys.argv[2])
    job, config = settle(run)
    stopwatches: list[StepStopwatch] = []

    def alternate(recorder: Recorder) -> Recorder:
        alternating = AlternatingRecorder(recorder)
        stopwatches.append(StepStopwatch(alternating, output))
        return alternating

    train_rank(run, job, config, wrap=alternate, hooks=stopwatches)


if __name__ == "__main__":
    main()
