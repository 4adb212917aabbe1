"""How far a training run is, followed live from what its ranks record."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from statistics import fmean
from typing import TYPE_CHECKING, Any, Self, TextIO

from collectors.record import Kind, kinds, name_ids
from collectors.spool import SpoolReader

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from rich.progress import Progress, TaskID

    from collectors.run import RunDirectory

_INTERVAL_S = 0.25
_RECENT_STEPS = 20
_LINES = 10
_SILENCE_S = 30.0


class StepTally:
    """What is known of a run's steps so far.

    Attributes:
        step: the last one done, 0 before the first.
        loss: mean over the recent steps (one small batch says little), or None.
        tokens_per_step: as recorded, or None.
    """

    def __init__(self, total_steps: int) -> None:
        self.total_steps = total_steps
        self.step = 0
        self.tokens_per_step: float | None = None
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT_STEPS)
        self._losses: deque[float] = deque(maxlen=_RECENT_STEPS)

    def add(self, step: int, at_ns: int, loss: float) -> None:
        """A step has ended."""
        if step > self.step:
            self.step = step
            self._recent.append((step, at_ns))
            self._losses.append(loss)

    @property
    def loss(self) -> float | None:
        return fmean(self._losses) if self._losses else None

    @property
    def steps_per_s(self) -> float | None:
        """Over the recent steps; None before there are two."""
        if len(self._recent) < 2:
            return None
        (first, start_ns), (last, end_ns) = self._recent[0], self._recent[-1]
        return (last - first) * 1e9 / (end_ns - start_ns) if end_ns > start_ns else None

    def __str__(self) -> str:
        parts = [f"step {self.step}/{self.total_steps}"]
        if self.loss is not None:
            parts.append(f"loss {self.loss:.3f}")
        if (rate := self.steps_per_s) is not None:
            if self.tokens_per_step is not None:
                parts.append(f"{rate * self.tokens_per_step:,.0f} tokens/s")
            parts.append(f"{(self.total_steps - self.step) / rate:.0f} s left")
        return ", ".join(parts)


def show_progress(run: RunDirectory, *, total_steps: int) -> TrainingProgress:
    """A context that shows on stderr how far ``run`` is."""
    return TrainingProgress(run.spool, total_steps=total_steps, stream=sys.stderr)


class TrainingProgress:
    """Shows progress while its body runs: a bar on a terminal, else about ten lines.

    Args:
        spool: where the ranks record.
        stream: where to show it.
    """

    def __init__(self, spool: Path, *, total_steps: int, stream: TextIO) -> None:
        self._reader = SpoolReader(spool)
        self._tally = StepTally(total_steps)
        self._display = _Bar(total_steps) if stream.isatty() else _Lines(stream, total_steps)
        self._over = threading.Event()
        self._follower = threading.Thread(target=self._follow, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._reader.poll()  # what an earlier attempt of the run recorded
        self._display.start()
        self._follower.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._follower.join()
        self._display.stop()

    def _follow(self) -> None:
        while not self._over.wait(_INTERVAL_S):
            self._update()
        self._update()

    def _update(self) -> None:
        for batch in self._reader.poll():
            names = name_ids(batch.records)
            samples = kinds(batch.records) == Kind.SAMPLE
            for name, record in zip(names[samples], batch.records[samples], strict=True):
                self._take(batch.names.get(int(name)), record)
        self._display.show(self._tally)

    def _take(self, name: str | None, record: Any) -> None:  # noqa: ANN401 - NumPy's scalar record
        if name == "tokens":
            self._tally.tokens_per_step = float(record["value"])
        elif name == "loss":
            self._tally.add(int(record["step"]), int(record["start_ns"]), float(record["value"]))


class _Lines:
    """A line for every tenth of the run, and at least one in half a minute."""

    def __init__(self, stream: TextIO, total_steps: int) -> None:
        self._stream = stream
        self._every = max(1, total_steps // _LINES)
        self._shown = 0
        self._shown_s = time.monotonic()

    def start(self) -> None: ...

    def show(self, tally: StepTally) -> None:
        silent = tally.step > self._shown and time.monotonic() - self._shown_s > _SILENCE_S
        due = silent or tally.step // self._every > self._shown // self._every
        if due or (tally.step == tally.total_steps and self._shown < tally.step):
            self._stream.write(f"{tally}\n")
            self._stream.flush()
            self._shown, self._shown_s = tally.step, time.monotonic()

    def stop(self) -> None: ...


class _Bar:
    """A bar that grows."""

    def __init__(self, total_steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress: Progress = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            auto_refresh=False,
        )
        self._task: TaskID = self._progress.add_task("starting ranks", total=total_steps)

    def start(self) -> None:
        self._progress.start()

    def show(self, tally: StepTally) -> None:
        if tally.step:
            self._progress.update(self._task, completed=tally.step, description=str(tally))
        self._progress.refresh()

    def stop(self) -> None:
        self._progress.stop()
