"""What drivers of a job leave for the next: one file for each generation.

A driver makes its generation's file before anything else, and only ever writes that one: two that
start at once get different generations, and one that was replaced and does not know it can spoil
nothing.
"""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING, Any

from collectors.atomic import write_atomically
from engine.supervision.job_spec import DRIVER

if TYPE_CHECKING:
    from pathlib import Path

_REST = 20.0  # times as long as writing takes
_NAME = re.compile(r"generation-(\d{6})\.json")


class DriverState:
    """Of the newest driver.

    Attributes:
        generation: of this driver.
        past: what the one before had left, or None.

    Raises:
        OSError: the disk refused.
    """

    def __init__(self, run: Path) -> None:
        self._directory = run / DRIVER
        self._directory.mkdir(mode=0o700, exist_ok=True)
        while True:
            known = self._generations()
            self.generation = max(known, default=0) + 1
            try:
                descriptor = os.open(self._path(self.generation), os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue  # another one was quicker
            os.close(descriptor)
            break
        self.past = self._newest(sorted(known, reverse=True))
        self._next_s = 0.0

    @property
    def replaced(self) -> bool:
        """Whether a newer driver has begun."""
        return self._path(self.generation + 1).exists()

    def keep(self, state: dict[str, Any]) -> None:
        """Write down what the next driver must know.

        Raises:
            OSError: the disk refused.
        """
        begun = time.monotonic()
        write_atomically(self._path(self.generation), json.dumps(state))
        now = time.monotonic()
        self._next_s = now + (now - begun) * _REST

    @property
    def is_old(self) -> bool:
        """Whether it is time to write again, though nothing new depends on it: the state of a large
        job takes longer to write than the time between two heartbeats."""
        return time.monotonic() >= self._next_s

    def _newest(self, generations: list[int]) -> dict[str, Any] | None:
        for generation in generations:
            try:
                found = json.loads(self._path(generation).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue  # it ended before it had anything to leave
            return dict(found)
        return None

    def _path(self, generation: int) -> Path:
        return self._directory / f"generation-{generation:06d}.json"

    def _generations(self) -> list[int]:
        found = (_NAME.fullmatch(path.name) for path in self._directory.iterdir())
        return [int(match[1]) for match in found if match]
