"""The thread of a rank that answers when somebody asks for its flight recorder."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from collectors.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.board import Board

_LOOK_S = 0.25


class Responder:
    """Looks at the board four times a second, also while the main thread waits in a collective."""

    def __init__(self, board: Board, flight_file: Path) -> None:
        self._board = board
        self._file = flight_file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opsuite-responder", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """End; the interpreter may be ending too."""
        self._over.set()
        self._thread.join(timeout=2 * _LOOK_S)

    def _run(self) -> None:
        answered = 0
        while not self._over.wait(_LOOK_S):
            asked = self._board.asked
            if asked == answered:
                continue
            answered = asked
            dump = read_flight_recorder()
            if dump is None:
                continue
            try:
                self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self._file, dump)
            except OSError:
                continue  # whoever asked is told nothing, and says so
            self._board.answer(asked)


def read_flight_recorder() -> bytes | None:
    """What torch recorded of this process's collectives, as it pickles it; None where it does not.

    Reading it does not wait for any collective.
    """
    try:
        from torch._C import _distributed_c10d as c10d
    except ImportError:  # a torch without distributed
        return None
    for name in ("_dump_fr_trace", "_dump_nccl_trace"):
        if dump := getattr(c10d, name, None):
            return bytes(dump())
    return None
