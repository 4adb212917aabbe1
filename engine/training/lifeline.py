"""A rank does not outlive its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(launcher_pid: int) -> None:
    """Have the kernel kill this process when its launcher dies, however it dies (Linux only).

    Raises:
        SystemExit: it has died already.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != launcher_pid:
        raise SystemExit("the launcher is gone")
