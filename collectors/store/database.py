"""The store's file, from opening to closing.

Nothing in it is the only copy: a file that is damaged or of another version is moved aside and
made again from the spools.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Self

import duckdb

from collectors.errors import DataError, OpsuiteError, StorageError, Unreachable
from collectors.store.ingest import ingest
from collectors.store.lock import StoreLock
from collectors.store.sandbox import Table, connect, run_query
from collectors.store.schema import SCHEMA_VERSION, TABLES
from collectors.store.views import create_views

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

    from numpy.typing import NDArray

_log = logging.getLogger("opsuite")
OPEN_TIMEOUT_S = 30.0


class Store:
    """Everything recorded under ``home``, for reading. Use it as a context manager."""

    def __init__(self, path: Path, lock: StoreLock) -> None:
        self.path = path
        self._lock = lock
        self._connection = connect(path)

    @classmethod
    def open(cls, home: Path, *, timeout_s: float = OPEN_TIMEOUT_S) -> Store:
        """Store what is new in the spools, and open the result for reading.

        Raises:
            TimedOut: another process keeps the store.
            StorageError: it cannot be written here.
        """
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError.from_os_error(error, f"opening the store in {home}") from error
        path = home / "store.duckdb"
        lock = StoreLock(home / "store.lock")
        try:
            lock.exclude(timeout_s)
            _bring_up_to_date(path, home)
            lock.share(timeout_s)
            return cls(path, lock)
        except duckdb.Error as error:
            lock.release()
            raise _explain(error, path) from error
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
        self._connection.close()
        self._lock.release()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        return self._run(sql, parameters).fetchall()

    def arrays(self, sql: str, parameters: Sequence[Any] = ()) -> dict[str, NDArray[Any]]:
        """The columns of a query of ours; one with NULLs is a masked array."""
        return self._run(sql, parameters).fetchnumpy()

    def query(self, sql: str, limit: int | None = None) -> Table:
        """One SELECT of a user, its first rows; UsageError where it is wrong or another thing."""
        return run_query(self._connection, sql, limit)

    def _run(self, sql: str, parameters: Sequence[Any]) -> duckdb.DuckDBPyConnection:
        try:
            return self._connection.execute(sql, list(parameters))
        except duckdb.IOException as error:
            raise _explain(error, self.path) from error


def _bring_up_to_date(path: Path, home: Path) -> None:
    try:
        _ingest(path, home)
    except duckdb.Error as error:
        if not path.exists() or not _is_damage(error):
            raise
        aside = _move_aside(path)
        _log.warning(
            "the store could not be read (%s): it is now %s, and made again", error, aside.name
        )
        _ingest(path, home)


def _ingest(path: Path, home: Path) -> None:
    connection = duckdb.connect(str(path), config={"autoinstall_known_extensions": "false"})
    try:
        path.chmod(0o600)
        _ensure_schema(connection)
        ingest(connection, home)
    finally:
        connection.close()


def _ensure_schema(connection: duckdb.DuckDBPyConnection) -> None:
    tables = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw' AND table_name = 'meta'"
    ).fetchall()
    if tables == [(0,)]:
        connection.execute("BEGIN")
        connection.execute(TABLES)
        connection.execute(create_views())
        connection.execute("INSERT INTO raw.meta VALUES (?)", [SCHEMA_VERSION])
        connection.execute("COMMIT")
    found = connection.execute("SELECT schema_version FROM raw.meta").fetchall()
    if found != [(SCHEMA_VERSION,)]:
        raise duckdb.CatalogException(f"schema version {found}, and not {SCHEMA_VERSION}")


_NOT_DAMAGE = ("lock", "no space", "permission denied", "out of memory", "disk quota")


def _is_damage(error: duckdb.Error) -> bool:
    """Whether a new file would help: it does not against a full disk or a lock."""
    text = str(error).lower()
    return not any(sign in text for sign in _NOT_DAMAGE)


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.replace(aside)
        log = path.with_name(f"{path.name}.wal")
        if log.exists():
            log.replace(aside.with_name(f"{aside.name}.wal"))
    except OSError as error:
        raise StorageError.from_os_error(error, "moving the damaged store aside") from error
    return aside


def _explain(error: duckdb.Error, path: Path) -> OpsuiteError:
    text = str(error)
    if "lock" in text.lower():
        return Unreachable(
            "another program has the store open", where=str(path), remedy=f"close it: {text}"
        )
    if _is_damage(error):
        return DataError(
            f"the store cannot be read: {text}",
            where=str(path),
            remedy=f"remove {path}: it is made again from the spools",
        )
    return StorageError(f"the store cannot be written: {text}", where=str(path))
