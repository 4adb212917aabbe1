"""Keeps one core busy until its parent ends. Run as a script: ``hog.py PARENT_PID CORE``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, core: int) -> None:
    """Spin on ``core``; the kernel kills this process when ``parent`` dies, however it dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.sched_setaffinity(0, {core})
    if os.getppid() == parent:  # else it died before the kernel knew
        while True:
            pass


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
