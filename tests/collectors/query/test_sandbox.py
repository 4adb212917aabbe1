"""SQL of users reads the views and nothing else, and costs nobody else anything."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import TimedOut, UsageError
from collectors.query.answers import answer_of
from collectors.query.readers import ReaderPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from collectors.query.source import Answer

    Ask = Callable[..., Answer]

Small = Any  # the conftest's SmallStore

# {target}: a file elsewhere; {inside}: one in the only directory that may be read at all.
REFUSED = [
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_parquet('/tmp/other.parquet')",
    "SELECT * FROM read_text('{inside}/../secret')",
    "SELECT * FROM read_text('{inside}/link')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM query('COPY runs TO ''{inside}/x''')",
    "SELECT * FROM json_execute_serialized_sql('{{}}')",
    "SELECT getenv('HOME')",
    "SELECT * FROM secret",
    "SELECT * FROM rows_of_small",
    "SELECT * FROM read_duckdb('/etc/passwd')",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan(1::POINTER, 2::POINTER, 3::POINTER)",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM pandas_scan(1::POINTER)",
    "SELECT * FROM python_arrow_scan()",
    "SELECT * FROM python_map_function()",
    "SELECT * FROM register_external_resource_type('a', 'b')",
    "SELECT * FROM create_external_resource('a', 'b')",
    "SELECT which_secret('/etc', 's3')",
    "COPY runs TO '{target}'",
    "COPY runs TO '{inside}/x.csv'",
    "COPY runs FROM '/etc/passwd'",
    "EXPLAIN COPY runs TO '{inside}/x.csv'",
    "EXPLAIN ANALYZE COPY runs TO '{target}'",
    "EXPLAIN ANALYZE COPY runs TO '{inside}/x.csv'",
    "explain /* */ analyze COPY runs TO '{inside}/x.csv'",
    "EXPLAIN (ANALYZE) COPY runs TO '{inside}/x.csv'",
    "EXPLAIN ANALYZE EXPLAIN ANALYZE COPY runs TO '{inside}/x.csv'",
    "FROM (COPY runs TO '{inside}/x.csv')",
    "WITH x AS (COPY runs TO '{inside}/x.csv') FROM x",
    "EXPLAIN ANALYZE WITH x AS (COPY runs TO '{inside}/x.csv') FROM x",
    "WITH x AS (CoPy runs TO '{inside}/x.csv') SELECT 1; -- done",
    "SELECT * FROM query('WITH x AS (CO' || 'PY runs TO ''{inside}/x.csv'') FROM x')",
    "WITH x AS (INSERT INTO raw.run (run_id) VALUES ('q') RETURNING run_id) FROM x",
    "WITH x AS (UPDATE raw.run SET run_id = 'q' RETURNING run_id) FROM x",
    "WITH x AS (DELETE FROM raw.run RETURNING *) SELECT * FROM x",
    "EXPORT DATABASE '{target}'",
    "EXPORT DATABASE '{inside}/x'",
    "IMPORT DATABASE '{inside}'",
    "ATTACH '{target}'",
    "ATTACH '{inside}/x.db'",
    "DETACH memory",
    "SELECT * FROM enable_logging(storage='file', storage_path='{target}')",
    "SELECT * FROM enable_logging(storage='file', storage_path='{inside}/log')",
    "CALL enable_logging(storage='file', storage_path='{target}')",
    "SELECT * FROM enable_profiling(save_location='{inside}/profile')",
    "CALL enable_profiling(save_location='{inside}/profile')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "SELECT * FROM read_csv('https://localhost:1/x.csv')",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "SET threads = 64",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET VARIABLE run_ids = ['x']",
    "RESET lock_configuration",
    "USE memory",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE SECRET s (TYPE s3)",
    "CREATE MACRO run_named(x) AS 1",
    "INSERT INTO raw.run VALUES (7)",
    "EXPLAIN ANALYZE INSERT INTO raw.run (run_id) VALUES ('x')",
    "DELETE FROM raw.run",
    "UPDATE raw.run SET name = 'x'",
    "DROP VIEW runs",
    "ALTER TABLE raw.run RENAME TO gone",
    "CHECKPOINT",
    "VACUUM",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY runs TO '{target}'",
    "EXPLAIN SELECT 1; COPY runs TO '{inside}/x.csv'",
    "",
    "-- nothing",
    "SELEC 1",
    "\0",
    "SELECT '" + "x" * (1 << 20) + "'",
    "SELECT " + "(" * 5000 + "1" + ")" * 5000,
    "SELECT " + "+".join(["1"] * 20_000),
    "SELECT * FROM " + "(SELECT * FROM " * 3000 + "runs" + ")" * 3000,
]

# Within 1.5 s and 512 MiB each of them is refused, or its child is killed.
BOMBS = [
    "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 1",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT sleep_ms(1000000000)",
    "SELECT sum(sqrt(range)) FROM range(1000000000000)",
    "SELECT repeat('x', 2000000000)",
    "SELECT length(repeat('x', 2000000000))",
    "SELECT length(lpad('', 2000000000, 'x'))",
    "SELECT list_sum(range(10000000000))",
    "SELECT list_sum(range(400000000))",
    "SELECT string_agg(repeat('x', 1000), '') FROM range(100000000)",
    "SELECT list(range) FROM range(1000000000)",
    "SELECT count(DISTINCT md5(range::VARCHAR)) FROM range(1000000000)",
    "SELECT range FROM range(1000000000) ORDER BY hash(range)",
    "SELECT range, repeat('x', 1000) FROM range(1000000000)",
    "SELECT regexp_matches(repeat('a', 1000000), '(a{{0,500}}){{0,500}}b') FROM range(100000)",
    "SELECT repeat('x', 100000000)",
    "SELECT " + "[" * 900 + "1" + "]" * 900,
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_store: Callable[[Path], Small]) -> Small:
    """A store with one run."""
    small = new_store(tmp_path_factory.mktemp("store"))
    small.run("r")
    small.span(small.process(0), "step", 1, 0, 10)
    small.seal()
    (small.path / "secret").write_text("root:")
    (small.parquet / "link").symlink_to("/etc/passwd")
    return small


@pytest.fixture(scope="module")
def ask(store: Small) -> Iterator[Ask]:
    """Asks one reader about it: what an attack leaves behind, the next ones would meet."""
    pool = ReaderPool(size=1, wall_limit_s=1.5, memory_bytes=512 << 20)
    snapshot = store.snapshot()
    yield lambda sql, limit=1000: answer_of(pool.ask(snapshot, sql, limit=limit))
    pool.close()


def still_well(store: Small, ask: Ask, before: dict[str, bytes]) -> None:
    """The next good query answers, and no file has changed."""
    began = time.monotonic()
    assert ask("SELECT run_id, steps FROM runs").rows == [("r", 1)]
    assert ask("SELECT count(*) FROM spans").rows == [(1,)]
    assert time.monotonic() - began < 10.0
    assert files_of(store) == before


def files_of(store: Small) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(store.path.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("attack", REFUSED, ids=lambda sql: sql[:60])
def test_it_is_refused_and_nothing_happens(store: Small, ask: Ask, attack: str) -> None:
    secret = ["only Python knows this"]
    before = files_of(store)
    with pytest.raises(UsageError) as refusal:
        ask(attack.format(target=store.path / "target", inside=store.parquet))
    still_well(store, ask, before)
    assert "root:" not in str(refusal.value)
    assert secret[0] not in str(refusal.value)
    assert len(refusal.value.what) < 10_000


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda sql: sql[:60])
def test_it_is_bounded(store: Small, ask: Ask, bomb: str) -> None:
    before, began = files_of(store), time.monotonic()
    with pytest.raises((UsageError, TimedOut)):
        ask(bomb.format(), limit=None)
    assert time.monotonic() - began < 5.0
    still_well(store, ask, before)


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT 1 AS a", [(1,)]),
        ("select 1;", [(1,)]),
        ("WITH x AS (SELECT 1) FROM x", [(1,)]),
        ("SELECT step FROM spans", [(1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("/* EXPLAIN */ SELECT 'COPY' -- INSERT", [("COPY",)]),
        ("SELECT column_name FROM (DESCRIBE damage) LIMIT 1", [("run_id",)]),
    ],
)
def test_what_reads_is_run(ask: Ask, sql: str, rows: list[tuple[int, ...]]) -> None:
    assert ask(sql).rows == rows
    assert ask(f"EXPLAIN {sql}").rows
    assert ask(f" explain  Analyze {sql}").rows


def test_a_wrong_name_is_explained(ask: Ask) -> None:
    with pytest.raises(UsageError, match='"nope" not found') as refusal:
        ask("SELECT nope FROM runs")
    assert "views: runs, ranks" in refusal.value.remedy


@pytest.mark.parametrize(
    ("sql", "advice"),
    [
        ("FROM nope", "views: runs, ranks"),
        ("FROM heatmap('last')", "call it as heatmap(run, phase), such as heatmap('last', "),
        ("FROM stragglers(last)", "single quotes"),
        ("FROM stragglers('nope')", "SELECT run_id, kind FROM runs"),
        ("SELECT now() AS at", "column::TIMESTAMP"),
        ("-- nothing", "write a SELECT"),
        ("COPY runs TO 'x'", "write one SELECT"),
        ("SELEC 1", "correct the SQL"),
    ],
)
def test_the_advice_fits_the_mistake(ask: Ask, sql: str, advice: str) -> None:
    with pytest.raises(UsageError) as refusal:
        ask(sql)
    assert advice in refusal.value.remedy
    assert ("views" in refusal.value.remedy) == ("views" in advice)
