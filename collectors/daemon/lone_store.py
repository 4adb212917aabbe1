"""The store without a daemon, whose users' SQL runs in a reader all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.daemon.answers import answer_of
from collectors.daemon.readers import ReaderPool
from collectors.store.database import Store

if TYPE_CHECKING:
    from collectors.store.collector import Collector
    from collectors.store.lock import StoreLock
    from collectors.store.source import Answer


class LoneStore(Store):
    """Starts its reader at the first :meth:`query`."""

    def __init__(self, lock: StoreLock, collector: Collector) -> None:
        super().__init__(lock, collector)
        self._readers: ReaderPool | None = None

    def query(self, sql: str, limit: int | None = None) -> Answer:
        """One SELECT of a user, its first rows, as :meth:`ReaderPool.ask` answers it."""
        if self._readers is None:
            self._readers = ReaderPool(size=1)
        return answer_of(self._readers.ask(self.snapshot, sql, limit=limit))

    def close(self) -> None:
        """Give the store back to others."""
        if self._readers is not None:
            self._readers.close()
        super().close()
