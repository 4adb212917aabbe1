"""Starting the watchdog of a run, from a trainer or from a command.

Needs the standard library alone: it is imported into other people's processes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2]
_OF_A_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "OPSUITE_RUN", "OPSUITE_STREAMS")

_started: list[subprocess.Popen[bytes]] = []  # nobody need wait for them, or is warned of it


def start_watchdog(
    run: Path, *, own: bool = False, launcher: bool = False
) -> subprocess.Popen[bytes]:
    """Start it for the run in the directory ``run``; where it has one on this host, it just ends.

    It is a session of its own, outlives whoever started it, and writes to this stderr.

    Args:
        own: it takes the run over, and says at its end how the run has ended.
        launcher: the ranks have this process above them: when it is killed, they are ended.

    Raises:
        OSError: it cannot be started.
    """
    command = [sys.executable, "-P", "-m", "opsuite.watchdog", str(run.absolute())]
    command += ["--own"] if own else []
    command += ["--launcher", str(os.getpid())] if launcher else []
    process = subprocess.Popen(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )
    _started.append(process)
    return process


def _environment() -> dict[str, str]:
    """Ours, so that it finds this opsuite and is not taken for a rank."""
    made = {name: value for name, value in os.environ.items() if name not in _OF_A_RANK}
    made["PYTHONPATH"] = str(_HOME)
    return made
