"""Which processes have a file locked, to name them to people."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from collectors.clock import process_lives

_LOCKS = Path("/proc/locks")


def lock_holders(path: Path) -> list[int]:
    """The processes that have ``path`` locked (flock), as well as this system can say.

    Where it does not list locks, it is the process that the file names, if the file is locked and
    that one is there: it was the last that had the lock alone.
    """
    try:
        with path.open("rb") as file:
            return _listed(os.fstat(file.fileno()).st_ino) or _named(file.fileno())
    except OSError:
        return []


def _listed(inode: int) -> list[int]:
    """``1: FLOCK ADVISORY READ 4711 08:01:1234 0 EOF`` is a lock of process 4711 on inode 1234."""
    if not _LOCKS.exists():
        return []
    found = set()
    for line in _LOCKS.read_text(encoding="ascii", errors="replace").splitlines():
        words = line.split()
        if len(words) == 8 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            found.add(int(words[4]))
    return sorted(pid for pid in found if pid > 0)


def _named(descriptor: int) -> list[int]:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free again as the file is closed
    except BlockingIOError:
        word = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        if word.isdecimal() and process_lives(int(word), since_ns=time.time_ns()):
            return [int(word)]
    return []
