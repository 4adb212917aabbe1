"""A rank that others can look at, whatever it does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from collectors.board import Board, own_facts
from collectors.samplers.fault_stacks import install_fault_stacks, remove_fault_stacks
from engine.presence.responder import Responder

if TYPE_CHECKING:
    from pathlib import Path


class Presence:
    """Opens this rank's board in the run at ``run``, and answers who asks for stacks and dumps.

    Attributes:
        board: what the rank does just now.

    Raises:
        StorageError: the run's directory cannot be written; nothing is left of it.
    """

    def __init__(self, run: Path, *, rank: int, world_size: int) -> None:
        process = f"rank{rank}-{os.getpid()}-{os.urandom(4).hex()}"
        stacks, flight = (run / "dumps" / f"{process}.{kind}" for kind in ("stacks", "flight"))
        self._signal = install_fault_stacks(stacks)
        try:
            self.board = Board(
                run / "boards",
                own_facts(
                    process,
                    rank,
                    world_size,
                    stacks_signal=self._signal,
                    stacks_file=str(stacks) if self._signal else "",
                    flight_file=str(flight),
                ),
            )
        except BaseException:
            self._forget_stacks()
            raise
        self._responder = Responder(self.board, flight)
        self._responder.start()

    def leave(self, *, well: bool, last_words: str = "") -> None:
        """Say on the board how this rank ended, and answer nobody any more."""
        self.board.end(well=well, last_words=last_words)
        self.close()

    def close(self) -> None:
        """Answer nobody any more, and let go of the files; may be called again."""
        self._responder.stop()
        self.board.detach()
        self._forget_stacks()

    def _forget_stacks(self) -> None:
        if self._signal:
            remove_fault_stacks(self._signal)
            self._signal = 0
