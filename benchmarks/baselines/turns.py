"""A trainer that steps when it is told to, so that several can be measured step by step in turn."""

from __future__ import annotations

import os


class Turns:
    """Two pipes: a byte comes in when a step may begin, and one goes out when it has ended.

    Args:
        prefix: of the pipes' paths, ``<prefix>.go`` and ``<prefix>.done``.
    """

    def __init__(self, prefix: str) -> None:
        self._go = os.open(f"{prefix}.go", os.O_RDONLY)
        self._done = os.open(f"{prefix}.done", os.O_WRONLY)

    def wait(self) -> None:
        """Until this trainer's turn."""
        os.read(self._go, 1)

    def end(self) -> None:
        """The step is done."""
        os.write(self._done, b".")
