"""How commands come to the store: through the collector that runs, or without one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from collectors.daemon.client import DaemonClient
from collectors.errors import TimedOut
from collectors.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.query.source import Source

_TIMEOUT_S = 30.0
_LOOK_S = 1.0


def open_store(home: Path) -> Source:
    """All that is recorded under ``home`` (or by the collector that OPSUITE_COLLECTOR names).

    Raises:
        Unreachable: nobody listens at OPSUITE_COLLECTOR.
        TimedOut: the collector does not answer, or another process keeps the store.
        UsageError: the collector is of a version that has nothing in common with this one.
        StorageError: the store cannot be written here.
    """
    if (path := Settings.from_environment().collector) is not None:
        return DaemonClient.connect(path)
    deadline = time.monotonic() + _TIMEOUT_S
    while True:
        if (client := DaemonClient.find(home)) is not None:
            return client
        try:
            return _open_alone(home)
        except TimedOut:  # a collector that is just starting has the lock, and no socket yet
            if time.monotonic() > deadline:
                raise


def _open_alone(home: Path) -> Source:
    from collectors.query.direct import Store

    return Store.open(home, timeout_s=_LOOK_S)
