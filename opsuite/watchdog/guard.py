"""The watchdog of a run, a process of its own: it says who never came when the run hangs."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Self

from opsuite.output import narrate
from opsuite.watchdog.starting import start_watchdog

if TYPE_CHECKING:
    from types import TracebackType

    from collectors.run import RunDirectory

_END_S = 15.0  # it may be writing a bundle


class Guard:
    """Looks for hangs while its body runs, if that is wanted."""

    def __init__(self, run: RunDirectory, *, wanted: bool) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if not wanted:
            return
        try:
            self._process = start_watchdog(run.path, launcher=True)
        except OSError as error:
            narrate(f"warning: nobody watches for hangs: {error.strerror}")

    @property
    def pids(self) -> frozenset[int]:
        """Of its processes."""
        return frozenset() if self._process is None else frozenset({self._process.pid})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            narrate("note: the evidence of the hang is still being written")
