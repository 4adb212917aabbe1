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
    if sys.platform.startswith("linux"):
        _end_with_parent()
        if os.getppid() != launcher_pid:
            raise SystemExit("the launcher is gone")


def end_with_parent() -> None:
    """The same with whatever process has started this one, which may have ended already: then some
    other process has become its parent, and only that of number 1 is known to be another.

    Raises:
        SystemExit: it has ended.
    """
    if sys.platform.startswith("linux"):
        _end_with_parent()
        if os.getppid() == 1:
            raise SystemExit("the process that started this one is gone")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
