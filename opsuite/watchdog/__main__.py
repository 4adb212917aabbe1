"""``python -P -m opsuite.watchdog RUN_DIR``: see :mod:`opsuite.watchdog.process`."""

from __future__ import annotations

import argparse
import fcntl
import os
import signal
import sys
from pathlib import Path

from collectors.clock import host_name
from collectors.errors import OpsuiteError, StorageError
from collectors.run import RunDirectory
from collectors.settings import Settings
from collectors.stop_request import StopRequest, made_by
from opsuite.collecting import start_collecting
from opsuite.watchdog.process import Watchdog


def main() -> int:
    """Watch until the end; gives the exit code."""
    parser = argparse.ArgumentParser(prog="opsuite.watchdog")
    parser.add_argument("run", type=Path)
    parser.add_argument("--own", action="store_true")
    parser.add_argument("--launcher", type=int)
    arguments = parser.parse_args()
    try:
        run = RunDirectory.load(arguments.run.absolute())
        return _watch(run, own=arguments.own, launcher=arguments.launcher)
    except OpsuiteError as error:
        sys.stderr.write(f"opsuite: nobody watches for hangs: {error}\n")
        return error.exit_code


def _watch(run: RunDirectory, *, own: bool, launcher: int | None) -> int:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with made_by(StopRequest(), signal.SIGTERM, signal.SIGINT) as stop:
        lock = _lock(run)
        if lock is None:
            return 0  # somebody watches already
        settings = Settings.from_environment()
        if own and run.manifest.host == host_name():
            run.adopt()
            start_collecting(settings)
        else:
            own = False
        Watchdog(run, settings, own=own, stop=stop, launcher=launcher).run()
    return 0


def _lock(run: RunDirectory) -> int | None:
    """Held until this process ends; None: another one has it."""
    path = run.path / f"watchdog-{host_name()}.lock"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError.from_os_error(error, f"making {path}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


if __name__ == "__main__":
    sys.exit(main())
