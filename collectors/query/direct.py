"""The store without a daemon: a command reads what is new by itself, and answers from all of it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Self

from collectors.errors import StorageError, TimedOut, Unreachable
from collectors.query.answers import answer_of
from collectors.query.readers import ReaderPool
from collectors.query.session import Session
from collectors.store.collector import Collector
from collectors.store.filesystem import require_local
from collectors.store.index import Index
from collectors.store.lock import StoreLock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

    from collectors.query.source import Answer
    from collectors.store.snapshot import Snapshot

_log = logging.getLogger("opsuite")
OPEN_TIMEOUT_S = 30.0
_WORTH_SEALING = 100_000


class Store:
    """Everything recorded under ``home``, for reading. Use it as a context manager."""

    def __init__(self, lock: StoreLock, collector: Collector) -> None:
        self._lock = lock
        self._collector = collector
        self._session = Session()
        self._session.show(collector.snapshot)
        self._readers: ReaderPool | None = None

    @classmethod
    def open(cls, home: Path, *, timeout_s: float = OPEN_TIMEOUT_S) -> Store:
        """Read what is new in the spools, and open all of it.

        One that finds the store unused seals much that is new; several may read side by side.

        Raises:
            TimedOut: a daemon that cannot be reached, or a sealing process, keeps the store.
            StorageError: it cannot be written here.
        """
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.from_os_error(error, f"opening the store in {home}") from error
        require_local(home)
        lock = StoreLock(home / "store.lock")
        try:
            return cls(lock, _collect(home, lock, timeout_s))
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the store back to others."""
        if self._readers is not None:
            self._readers.close()
        self._session.close()
        self._collector.close()
        self._lock.release()

    @property
    def snapshot(self) -> Snapshot:
        """The files behind it."""
        return self._collector.snapshot

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        return self._session.rows(sql, parameters)

    def arrays(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query of ours; one with NULLs is a masked array."""
        return self._session.arrays(sql, parameters)

    def query(self, sql: str, limit: int | None = None) -> Answer:
        """One SELECT of a user, its first rows, in a child as :meth:`ReaderPool.ask` runs it."""
        if self._readers is None:
            self._readers = ReaderPool(size=1)
        return answer_of(self._readers.ask(self.snapshot, sql, limit=limit))


def _collect(home: Path, lock: StoreLock, timeout_s: float) -> Collector:
    try:
        lock.exclude(0.0)
    except TimedOut:  # others read: read beside them, and leave the sealing to somebody else
        lock.share(timeout_s)
        return _read_all(home, None)
    try:
        index = Index(home)
    except Unreachable as error:
        _log.warning("read without sealing: %s", error)
        lock.share(timeout_s)
        return _read_all(home, None)
    try:
        collector = _read_all(home, index)
    finally:
        index.close()
    lock.share(timeout_s)
    return collector


def _read_all(home: Path, index: Index | None) -> Collector:
    collector = Collector(home, index)
    try:
        while collector.tick().more:
            if index is not None:
                collector.seal(force=True)
        collector.align_clocks()
        if index is not None and collector.rows_hot >= _WORTH_SEALING:
            collector.seal(force=True)
    except OSError as error:
        collector.close()
        raise StorageError.from_os_error(error, "collecting what was recorded") from error
    except BaseException:
        collector.close()
        raise
    return collector
