"""The process of a daemon: its lock, log, signals and niceness around :class:`.Daemon`."""

from __future__ import annotations

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.daemon.lifecycle import claim
from collectors.daemon.logs import begin_log
from collectors.errors import OpsuiteError, StorageError
from collectors.stop_request import made_by
from collectors.store.filesystem import require_local

if TYPE_CHECKING:
    from collections.abc import Callable

    from collectors.daemon.service import DaemonOptions

_log = logging.getLogger("opsuite")
NICENESS = 5
"""Behind trainers that use all cores. It costs no lag: with 4 endless loops on 2 cores, 8 ranks at
12,500 events/s had a p99 of 0.40 s, and of 0.63 s without it, since a daemon that mostly sleeps is
run soon after it wakes."""
_AUTOGROUP = Path("/proc/self/autogroup")  # of a session of its own, which nice alone does not move


def run_daemon(
    home: Path,
    options: DaemonOptions,
    *,
    background: bool,
    report: Callable[[int, bool], None],
) -> int:
    """Collect until the end; returns the exit code.

    Args:
        report: told the process id of the collector of ``home`` when it is ready, and whether that
            is this process: if not, there is nothing to do here.

    Raises:
        OpsuiteError: it cannot be started.
    """
    require_local(home)
    lock = claim(home)
    if isinstance(lock, int):
        report(lock, False)
        return 0
    try:
        return _collect(home, options, background=background, report=report)
    finally:
        lock.release()


def _collect(
    home: Path,
    options: DaemonOptions,
    *,
    background: bool,
    report: Callable[[int, bool], None],
) -> int:
    try:
        begin_log(home, background=background)
    except OSError as error:
        raise StorageError.from_os_error(error, "opening the collector's log") from error
    from collectors.daemon.service import Daemon

    with suppress(OSError):  # where it is not allowed, it is as nice as whoever started it
        os.nice(NICENESS)
        if background and _AUTOGROUP.exists():
            _AUTOGROUP.write_text(str(NICENESS))
    daemon = Daemon(home, options)
    with made_by(daemon.stopping, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        daemon.start()
        _log.info("collecting into %s as process %d", home, os.getpid())
        report(os.getpid(), True)
        try:
            daemon.run()
        except (OSError, OpsuiteError) as error:
            _log.error("not all is sealed, the spools keep it: %s", error)
            return 1
    _log.info("ended, all is sealed")
    return 0
