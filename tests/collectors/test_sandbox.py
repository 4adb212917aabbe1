"""SQL of users reads the views and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from collectors.errors import UsageError
from collectors.store import Store

if TYPE_CHECKING:
    from pathlib import Path

ATTACKS = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secret",
    "COPY runs TO '{target}'",
    "EXPLAIN ANALYZE COPY runs TO '{target}'",
    "EXPORT DATABASE '{target}'",
    "ATTACH '{target}'",
    "SELECT * FROM enable_logging(storage='file', storage_path='{target}')",
    "CALL enable_logging(storage='file', storage_path='{target}')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "SET threads = 64",
    "SET enable_external_access = true",
    "RESET lock_configuration",
    "USE memory",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "INSERT INTO raw.meta VALUES (7)",
    "EXPLAIN ANALYZE INSERT INTO raw.meta VALUES (7)",
    "DELETE FROM raw.run",
    "DROP VIEW runs",
    "CHECKPOINT",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY runs TO '{target}'",
    "",
    "-- nothing",
    "SELEC 1",
    "\0",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_refused_and_nothing_happens(home: Path, tmp_path: Path, attack: str) -> None:
    secret = ["only Python knows this"]
    target = tmp_path / "target"
    with Store.open(home) as store:
        with pytest.raises(UsageError) as refusal:
            store.query(attack.format(target=target))
        assert store.query("SELECT schema_version FROM raw.meta").rows == [(1,)]
    assert not target.exists()
    assert secret[0] not in str(refusal.value)
    assert "runs, ranks" in refusal.value.remedy


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT 1 AS a", [(1,)]),
        ("select 1;", [(1,)]),
        ("WITH x AS (SELECT 1) FROM x", [(1,)]),
        ("FROM runs", []),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("SELECT count(*) FROM (SHOW TABLES)", [(12,)]),
    ],
)
def test_what_reads_is_run(home: Path, sql: str, rows: list[tuple[int, ...]]) -> None:
    with Store.open(home) as store:
        assert store.query(sql).rows == rows
        assert store.query(f"EXPLAIN {sql}").rows


def test_what_is_left_out_is_counted(home: Path) -> None:
    with Store.open(home) as store:
        table = store.query("SELECT range AS n, -range AS n FROM range(25000)", limit=10)
        assert (len(table.rows), table.total, table.truncated) == (10, 25_000, True)
        assert table.columns == ["n", "n_1"]
        assert not store.query("FROM range(10)", limit=10).truncated


def test_a_wrong_name_is_explained(home: Path) -> None:
    with Store.open(home) as store, pytest.raises(UsageError, match='"nope" not found'):
        store.query("SELECT nope FROM runs")


def test_times_with_a_zone_ask_for_a_cast(home: Path) -> None:
    with Store.open(home) as store:
        with pytest.raises(UsageError, match="cast"):
            store.query("SELECT now() AS at")
        assert store.query("SELECT now()::VARCHAR").rows
