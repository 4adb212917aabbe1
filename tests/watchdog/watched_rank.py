"""A process that is watched: makes steps, then does as it is told.

python watched_rank.py RUN_DIR RANK WORLD_SIZE STEPS WHAT
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

from collectors.board import Activity, Board, own_facts

SEQUENCE = 7


def hold_a_lock() -> None:
    """For ever."""
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def all_reduce(board: Board, world_size: int, seconds: float) -> None:
    """Wait for the others."""
    board.enter(
        "all_reduce",
        group=f"world[0-{world_size - 1}]" if world_size > 2 else "world[0,1]",
        group_size=world_size,
        sequence=SEQUENCE,
        size_bytes=4096,
        where="watched_rank.py:1",
    )
    time.sleep(seconds)
    board.leave()


def main() -> None:
    """Make steps, and then the last thing."""
    run, rank, world_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    board = Board(run / "boards", own_facts(f"rank{rank}-{os.getpid()}", rank, world_size))
    for step in range(int(sys.argv[4])):
        board.step(step + 1, step)
        for activity in (Activity.DATA, Activity.FORWARD, Activity.BACKWARD):
            board.activity(activity)
            time.sleep(0.03)
    board.step(int(sys.argv[4]) + 1, int(sys.argv[4]))
    what, _, seconds = sys.argv[5].partition("=")
    if what == "wait":
        all_reduce(board, world_size, float(seconds or 1e6))
    elif what == "lock":
        hold_a_lock()
    elif what == "pause":
        time.sleep(float(seconds))
        board.tick()
    elif what == "fail":
        board.end(well=False, last_words="Traceback:\nValueError: no\n")
        sys.exit(1)
    board.end(well=True)


if __name__ == "__main__":
    main()
