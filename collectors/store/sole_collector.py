"""The store for one process alone: to seal, thin or rebuild it where no daemon does."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from collectors.errors import StorageError
from collectors.store.catalogue import rebuild as rebuild_index
from collectors.store.collector import Collector
from collectors.store.filesystem import require_local
from collectors.store.index import Index
from collectors.store.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def sole_collector(
    home: Path, *, timeout_s: float = 30.0, rebuild: bool = False
) -> Iterator[Collector]:
    """A collector that has read all that was recorded; nobody else has the store meanwhile.

    Args:
        timeout_s: how long to wait for others to close the store.
        rebuild: make the index anew; the old one is moved aside.

    Raises:
        TimedOut: a daemon, or somebody else, keeps the store.
        StorageError: it cannot be written here.
    """
    require_local(home)
    lock = StoreLock(home / "store.lock")
    try:
        lock.exclude(timeout_s)
        if rebuild:
            rebuild_index(home)
        index = Index(home)
        try:
            collector = Collector(home, index)
            try:
                while collector.tick().more:
                    collector.seal(force=True)
                yield collector
            finally:
                collector.close()
        finally:
            index.close()
    except OSError as error:
        raise StorageError.from_os_error(error, "collecting what was recorded") from error
    finally:
        lock.release()
