"""SQL that means harm, asked of a daemon that collects: refused or bounded, and nobody waits."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError, UsageError
from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import Collecting, temporary_home
from opsuite.bench.tracing.producers import Producers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MAX_LAG_S = 0.5
MAX_ATTACK_S = 45.0  # the wall limit of a query, and room for its killing on a busy machine
_ATTACKERS = 2  # as many as there are readers
_PRODUCERS, _RATE, _FOREVER_S = 2, 5_000.0, 3_600.0
_WARM_UP_S = 2.0
_MOST_NAMED = 5

FORBIDDEN = (
    # files
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/*.parquet')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM '{target}.parquet'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM read_csv('https://example.com/x.csv')",
    "SELECT getenv('HOME')",
    # what Python or DuckDB itself knows
    "SELECT * FROM secret",
    "SELECT * FROM client",
    "SELECT * FROM sys.modules",
    # writing
    "COPY runs TO '{target}'",
    "COPY (SELECT 1) TO '{target}' (FORMAT parquet)",
    "EXPLAIN ANALYZE COPY runs TO '{target}'",
    "EXPORT DATABASE '{target}'",
    "IMPORT DATABASE '{target}'",
    "ATTACH '{target}'",
    "ATTACH ':memory:' AS other",
    "SELECT * FROM enable_logging(storage='file', storage_path='{target}')",
    "CALL enable_logging(storage='file', storage_path='{target}')",
    "CALL pragma_version()",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE OR REPLACE VIEW runs AS SELECT 1",
    "CREATE OR REPLACE MACRO stragglers(run) AS TABLE SELECT 1",
    "CREATE SECRET (TYPE s3)",
    "INSERT INTO raw.run VALUES (7)",
    "EXPLAIN ANALYZE INSERT INTO raw.run VALUES (7)",
    "UPDATE raw.run SET name = 'x'",
    "DELETE FROM raw.run",
    "DROP VIEW runs",
    "ALTER TABLE raw.run ADD COLUMN x INTEGER",
    "VACUUM",
    "CHECKPOINT",
    # settings and sessions
    "INSTALL httpfs",
    "LOAD httpfs",
    "PRAGMA database_list",
    "PRAGMA enable_profiling",
    "SET threads = 64",
    "SET memory_limit = '1TB'",
    "SET enable_external_access = true",
    "SET VARIABLE run_ids = []",
    "RESET lock_configuration",
    "USE memory",
    "BEGIN",
    "PREPARE p AS SELECT 1",
    # several statements, none, or no SQL at all
    "SELECT 1; SELECT 2",
    "SELECT 1; COPY runs TO '{target}'",
    "",
    "-- nothing",
    "SELEC 1",
    "\0",
)
"""Refused, each; ``{target}`` is a path that must not come to be."""

BOMBS = (
    # processor
    "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
    "SELECT sum(hash(a.range, b.range)) FROM range(10000000) a, range(10000000) b",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT max(n) FROM t",
    "SELECT regexp_matches(repeat('a', 100000) || 'b', '(a*)*c') FROM range(100000)",
    "SELECT list_sort(list_transform(range(100000000), x -> hash(x)))[1]",
    # memory
    "SELECT length(repeat('x', 2000000000))",
    "SELECT list_aggregate(range(10000000000), 'sum')",
    "SELECT length(string_agg(repeat('x', 1000), '')) FROM range(10000000)",
    "SELECT count(DISTINCT repeat(range::VARCHAR, 50)) FROM range(1000000000)",
    "SELECT * FROM range(200000000) ORDER BY hash(range)",
    # the answer itself, the text itself
    "SELECT repeat('x', 1000000) FROM range(100000)",
    "SELECT " + "(" * 20_000 + "1" + ")" * 20_000,
    "SELECT " + " + ".join(["1"] * 50_000),
)
"""Not forbidden, but they end: refused, killed at a limit, or answered."""


@dataclass(kw_only=True)
class Outcome:
    """What became of the attacks.

    Attributes:
        tried: how many.
        breaches: what was answered and should not have been, or left a file behind.
        longest_s: the one that took most, of which ``longest`` is the text.
        mute: attacks after which a good question got no answer.
    """

    tried: int = 0
    breaches: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    longest: str = ""
    mute: list[str] = field(default_factory=list)


def measure(*, forbidden: Sequence[str] = FORBIDDEN, bombs: Sequence[str] = BOMBS) -> list[Row]:
    """All attacks at a daemon that collects 10,000 events/s meanwhile."""
    with temporary_home("attacks") as home, Collecting(home=home) as daemon:
        with Producers(home=home, ranks=_PRODUCERS, rate=_RATE, seconds=_FOREVER_S) as producers:
            time.sleep(_WARM_UP_S)
            outcome = _attack(daemon, [*bombs, *forbidden], target=home / "target")
            with daemon.connect() as client:
                lag = client.status()["lag"]["since_start"]
        with daemon.connect() as client:
            verdict = producers.judge(client)
    p99_s = float(lag["p99_s"])
    return [
        Row(
            name="attacks: SQL neither refused nor bounded",
            value=len(outcome.breaches),
            unit=f"of {outcome.tried}",
            rounds=1,
            target="0",
            met=not outcome.breaches,
            note="; ".join(outcome.breaches[:_MOST_NAMED])
            or f"{len(forbidden)} forbidden and {len(bombs)} bombs; "
            f"the longest took {outcome.longest_s:.1f} s: {outcome.longest[:60]}",
        ),
        Row(
            name="attacks: good questions that got no answer after one",
            value=len(outcome.mute),
            unit=f"of {outcome.tried}",
            rounds=1,
            target="0",
            met=not outcome.mute,
            note="; ".join(outcome.mute[:_MOST_NAMED]),
        ),
        Row(
            name=f"attacks: lag p99 meanwhile, {_PRODUCERS * _RATE:.0f} events/s",
            value=p99_s,
            unit="s",
            rounds=1,
            target=f"<= {MAX_LAG_S} s",
            met=p99_s <= MAX_LAG_S and verdict.right,
            note=f"the most {lag['max_s']:.3f} s; {verdict}",
        ),
    ]


def _attack(daemon: Collecting, attacks: Sequence[str], *, target: Path) -> Outcome:
    """Let some attackers work through the attacks side by side."""
    outcome, left, lock = Outcome(), list(attacks), threading.Lock()

    def attacker() -> None:
        while True:
            with lock:
                if not left:
                    return
                attack = left.pop(0)
            _try(daemon, attack, target, outcome, lock)

    threads = [threading.Thread(target=attacker) for _ in range(_ATTACKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome


def _try(
    daemon: Collecting, attack: str, target: Path, outcome: Outcome, lock: threading.Lock
) -> None:
    begun = time.perf_counter()
    end = _ask(daemon, attack.format(target=target) if "{target}" in attack else attack)
    taken = time.perf_counter() - begun
    well = _ask(daemon, "SELECT 42 AS answer")
    with lock:
        outcome.tried += 1
        if taken > outcome.longest_s:
            outcome.longest_s, outcome.longest = taken, attack
        if (attack in FORBIDDEN and end != "refused") or taken > MAX_ATTACK_S:
            outcome.breaches.append(f"{attack[:80]} ({end} after {taken:.1f} s)")
        if any(target.parent.glob(f"{target.name}*")):
            outcome.breaches.append(f"{attack[:80]} (wrote a file)")
        if well != "answered":
            outcome.mute.append(f"{attack[:80]} ({well})")


def _ask(daemon: Collecting, sql: str) -> str:
    """How a question of a user ends: "answered", "refused", or the error's first line."""
    try:
        with daemon.connect() as client:
            client.query(sql, limit=10)
    except UsageError:
        return "refused"
    except OpsuiteError as error:
        return error.what.partition("\n")[0]
    return "answered"
