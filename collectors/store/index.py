"""``store.duckdb``: the index of the seals. Nothing in it is the only copy."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from collectors.errors import OpsuiteError, StorageError, Unreachable
from collectors.store.seal import decode_seal
from collectors.store.tables import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collectors.store.catalogue import SealedRun
    from collectors.store.seal import Seal

_log = logging.getLogger("opsuite")
_TABLES = """
CREATE SCHEMA raw;
CREATE TABLE raw.meta (schema_version INTEGER);
CREATE TABLE raw.seal (run_id VARCHAR, seal_id VARCHAR, sealed_ns BIGINT, document VARCHAR);
CREATE TABLE raw.file (
    run_id VARCHAR, seal_id VARCHAR, "table" VARCHAR, path VARCHAR, rows BIGINT, bytes BIGINT
);
CREATE TABLE raw.position (
    run_id VARCHAR, seal_id VARCHAR, file VARCHAR, process BIGINT, position BIGINT,
    finished BOOLEAN, dropped BIGINT
);
CREATE TABLE raw.process (
    run_id VARCHAR, seal_id VARCHAR, process BIGINT, key VARCHAR, role VARCHAR, rank INTEGER,
    world_size INTEGER, host VARCHAR, boot_id VARCHAR, pid BIGINT, coordinates VARCHAR,
    opened_ns BIGINT
);
"""
_ENTRIES = ("seal", "file", "position", "process")
_NOT_DAMAGE = ("lock", "no space", "permission denied", "out of memory", "disk quota")


class Index:
    """The index, open for writing.

    Raises:
        Unreachable: another program has it open.
        StorageError: it cannot be written here.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "store.duckdb"
        self._parquet = home / "parquet"
        self._lock = threading.RLock()
        self._connection = self._open_or_renew()

    def _open_or_renew(self) -> duckdb.DuckDBPyConnection:
        try:
            return self._open()
        except duckdb.Error as error:
            if not self.path.exists() or not _is_damage(error):
                raise _explain(error, self.path) from error
            _log.warning(
                "the index could not be read (%s): it is now %s, and made again from the seals",
                str(error).splitlines()[0],
                move_aside(self.path).name,
            )
            return self._open()

    def reopen(self) -> None:
        """Begin again with the file: after a full disk DuckDB refuses all work, space or not.

        Raises:
            StorageError, Unreachable: as before.
        """
        with self._lock:
            self._connection.close()
            self._connection = self._open_or_renew()

    def _open(self) -> duckdb.DuckDBPyConnection:
        options: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "threads": "1",
            "memory_limit": "256MB",
            "wal_autocheckpoint": "1MB",  # an index is small: its log need not be 16 MB
        }
        connection = duckdb.connect(str(self.path), config=options)
        try:
            self.path.chmod(0o600)
            self._ensure_schema(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _ensure_schema(self, connection: duckdb.DuckDBPyConnection) -> None:
        tables = connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw' AND table_name = 'meta'"
        ).fetchall()
        if tables == [(0,)]:
            connection.execute("BEGIN")
            connection.execute(_TABLES)
            connection.execute(self._macro())
            connection.execute("INSERT INTO raw.meta VALUES (?)", [SCHEMA_VERSION])
            connection.execute("COMMIT")
        found = connection.execute("SELECT schema_version FROM raw.meta").fetchall()
        if found != [(SCHEMA_VERSION,)]:
            raise duckdb.CatalogException(f"schema version {found}, and not {SCHEMA_VERSION}")
        connection.execute("FROM raw.seal LIMIT 1").fetchall()

    def _macro(self) -> str:
        """The sealed rows of a table, for whoever opens the file with DuckDB alone."""
        directory = str(self._parquet).replace("'", "''")
        return (
            f"CREATE MACRO sealed(name) AS TABLE FROM read_parquet('{directory}/' || name "
            "|| '/**/*.parquet', hive_partitioning = true, "
            "hive_types = {'run': VARCHAR, 'host': VARCHAR, 'hour': VARCHAR});"
        )

    def seals(self) -> list[Seal]:
        """All seals that are entered, the oldest first."""
        rows = self._connection.execute(
            "SELECT run_id, document FROM raw.seal ORDER BY seal_id"
        ).fetchall()
        return [decode_seal(text, where=str(self.path), run_id=run_id) for run_id, text in rows]

    def enter(self, seal: Seal) -> None:
        """Enter a seal, and take out those that it replaces; StorageError: nothing changed."""
        with self._transaction():
            for replaced in seal.replaces:
                self._remove("seal_id", replaced)
            self._insert(seal)

    def replace_run(self, run: SealedRun) -> None:
        """Enter a run's seals in place of those that are there."""
        with self._transaction():
            self._remove("run_id", run.run_id)
            for seal in run.seals.values():
                self._insert(seal)

    def remove_run(self, run_id: str) -> None:
        """Take out all of a run."""
        with self._transaction():
            self._remove("run_id", run_id)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _remove(self, column: str, value: str) -> None:
        for table in _ENTRIES:
            self._connection.execute(f"DELETE FROM raw.{table} WHERE {column} = ?", [value])  # noqa: S608

    def _insert(self, seal: Seal) -> None:
        whose = (seal.run_id, seal.seal_id)
        self._insert_rows("seal", [(*whose, seal.sealed_ns, seal.encode())])
        self._insert_rows("file", [(*whose, *vars(file).values()) for file in seal.files])
        self._insert_rows(
            "position",
            [
                (*whose, p.file, p.process, p.position, p.finished, p.dropped)
                for p in seal.positions
            ],
        )
        self._insert_rows("process", [(*whose, *vars(one).values()) for one in seal.processes])

    def _insert_rows(self, table: str, rows: list[tuple[Any, ...]]) -> None:
        """All rows in one statement."""
        if not rows:
            return
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        self._connection.register(
            "entries", pa.table(columns, [f"c{i}" for i in range(len(columns))])
        )
        self._connection.execute(f"INSERT INTO raw.{table} FROM entries")
        self._connection.unregister("entries")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _explained(self.path):
            self._connection.execute("BEGIN")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):  # a failed COMMIT has rolled back by itself
                    self._connection.execute("ROLLBACK")
                raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except duckdb.Error as error:
        raise _explain(error, path) from error


def move_aside(path: Path) -> Path:
    """Rename a database and its log, for whoever wants to look into them."""
    aside = path.with_name(f"{path.name}.broken-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        path.replace(aside)
        log = path.with_name(f"{path.name}.wal")
        if log.exists():
            log.replace(aside.with_name(f"{aside.name}.wal"))
    except OSError as error:
        raise StorageError.from_os_error(error, "moving the index aside") from error
    return aside


def _is_damage(error: duckdb.Error) -> bool:
    """Whether a new file would help: it does not against a full disk or a lock."""
    text = str(error).lower()
    return not any(sign in text for sign in _NOT_DAMAGE)


def _explain(error: duckdb.Error, path: Path) -> OpsuiteError:
    text = str(error)
    if "lock" in text.lower():
        return Unreachable(
            "another program has the store's index open",
            where=str(path),
            remedy=f"close it: {text}",
        )
    return StorageError(f"the store's index cannot be written: {text}", where=str(path))
