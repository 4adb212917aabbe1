"""``collect.log``: what a daemon has to say, and what it writes as it crashes."""

from __future__ import annotations

import logging
import os
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

from collectors.daemon.lifecycle import LOG

if TYPE_CHECKING:
    from io import TextIOWrapper
    from pathlib import Path

_MAX_BYTES = 1 << 20
_OLD_LOGS = 1
_FORM = "%(asctime)s %(levelname)s %(message)s"


class _Log(RotatingFileHandler):
    """A rotating file, which in the background takes stderr with it."""

    def __init__(self, path: Path, *, background: bool) -> None:
        self._background = background
        super().__init__(path, maxBytes=_MAX_BYTES, backupCount=_OLD_LOGS, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        stream = super()._open()
        os.fchmod(stream.fileno(), 0o600)
        if self._background:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
        return stream


def begin_log(home: Path, *, background: bool) -> None:
    """Log into ``home``; in the foreground to stderr as well.

    Raises:
        OSError: the file cannot be written.
    """
    handlers: list[logging.Handler] = [_Log(home / LOG, background=background)]
    if not background:
        handlers.append(logging.StreamHandler())
    logging.basicConfig(level=logging.INFO, format=_FORM, handlers=handlers, force=True)


def last_lines(home: Path, count: int) -> list[str]:
    """The last lines of the log, the old file included."""
    lines: list[str] = []
    for path in (home / f"{LOG}.1", home / LOG):
        if path.exists():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-count:]
