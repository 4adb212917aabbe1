"""What the watchdog says goes to the terminal of the run, and into the run's logs."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

from opsuite.running.screen import harmless_text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LOG = "watchdog.log"
_OURS = "opsuite: "


class Voice:
    """Speaks on stderr, where a terminal is still there, and writes it down."""

    def __init__(self, logs: Path) -> None:
        self._path = logs / LOG

    def say(self, lines: Iterable[str]) -> None:
        """Say lines that belong together, at once: ranks print meanwhile."""
        told = [f"{_OURS}{harmless_text(line)}" for line in lines]
        self.note(told)
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; the log has it
            sys.stderr.write("".join(f"{line}\n" for line in told))
            sys.stderr.flush()

    def note(self, lines: Iterable[str]) -> None:
        """Only write it down."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S")
        with (
            contextlib.suppress(OSError),  # a full disk must not end the watch
            self._path.open("a", encoding="utf-8", errors="backslashreplace") as log,
        ):
            log.write("".join(f"{moment} {line}\n" for line in lines))


def spoken(line: str) -> str | None:
    """What a line of the log says; None: that was not said by us."""
    _, found, said = line.partition(f" {_OURS}")
    return said if found else None
