"""Freezes a file system, and thaws it for certain. Run as a script: ``... DIRECTORY SECONDS``."""

from __future__ import annotations

import fcntl
import os
import select
import sys

_FREEZE, _THAW = 0xC0045877, 0xC0045878  # linux/fs.h: FIFREEZE, FITHAW


def main(directory: str, seconds: float) -> None:
    """Thaw after ``seconds``, or when nobody holds the other end of stdin."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, _FREEZE, 0)
    except OSError as error:
        _say(error.strerror or "it was refused")
        return
    try:
        _say("frozen")
        select.select([sys.stdin], [], [], seconds)
    finally:
        fcntl.ioctl(descriptor, _THAW, 0)


def _say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
