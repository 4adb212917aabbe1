"""10 million spans of a simulated run of 12,288 ranks: how fast they come in, and are answered."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from collectors.run import RunDirectory
from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval
from opsuite.bench.tracing.collecting import Collecting, cpu_s, temporary_home, wait_until
from opsuite.bench.tracing.simulated_fleet import RANKS_PER_HOST, Fleet, host_name_of

if TYPE_CHECKING:
    from pathlib import Path

    from collectors.query.source import Source

MIN_RATE = 500_000
MAX_RSS_BYTES = 1_000_000_000
MAX_QUERY_S = 1.0
LARGE = Fleet(pp=16, dp=96, steps=102)
_TIMEOUT_S = 300.0
_LOOK_S = 0.02
_QUERIES = {
    "heatmap": "SELECT * FROM heatmap('last', 'forward')",
    "stragglers": "SELECT * FROM stragglers('last')",
}
_FIRST = "SELECT host FROM stragglers('last') LIMIT "


@dataclass(frozen=True, kw_only=True)
class Ingestion:
    """What it cost a daemon to take the run in.

    Attributes:
        seconds: until all of it could be asked about.
        sealed_s: until all of it was sealed.
        rss_bytes: the most memory, of the daemon itself.
        cpu_s: CPU time of the daemon itself.
    """

    seconds: float
    sealed_s: float
    rss_bytes: int
    cpu_s: float


def measure(rounds: int, fleet: Fleet = LARGE) -> list[Row]:
    """Ingest the run once; then ask ``rounds`` times."""
    load = f"{fleet.spans} spans, {fleet.records - fleet.spans} collectives, simulated"
    with temporary_home("fleet") as home, Collecting(home=home) as daemon:
        staged = _stage(home, fleet)
        ingestion = _ingest(daemon, staged, fleet)
        with daemon.connect() as client:
            seconds = {name: _times(client, sql, rounds) for name, sql in _QUERIES.items()}
            blamed = _blamed(client, fleet)
    return [
        *_ingestion_rows(ingestion, fleet, load),
        *(_query_row(name, taken) for name, taken in seconds.items()),
        Row(
            name="fleet: slow hosts that stragglers() names first",
            value=len(blamed & _slow(fleet)),
            unit=f"of {len(_slow(fleet))}",
            rounds=1,
            target="all",
            met=blamed == _slow(fleet),
            note="simulated: 0.5 % of the hosts are 10 % slower, 5 % noise on every phase",
        ),
    ]


def _stage(home: Path, fleet: Fleet) -> Path:
    """Write the run beside the home, so that it can appear there all at once."""
    run = RunDirectory.create(
        home / "staged",
        name="simulated fleet",
        kind="training",
        command=["opsuite", "bench", "store"],
        config={},
        world_size=fleet.world_size,
        notes="simulated: nobody has trained here",
    )
    fleet.write(run.run_id, run.spool)
    run.finish("finished", 0)
    return run.path


def _ingest(daemon: Collecting, staged: Path, fleet: Fleet) -> Ingestion:
    """Let the run appear, and watch until the daemon has all of it."""
    process, most, over = daemon.process, [0], threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_S):
            most[0] = max(most[0], process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with daemon.connect() as client:
            before = cpu_s(process)
            begun = time.perf_counter()
            runs = daemon.home / "runs"
            runs.mkdir(mode=0o700, exist_ok=True)
            staged.rename(runs / staged.name)
            wait_until(
                lambda: client.status()["rows"] >= fleet.records,
                timeout_s=_TIMEOUT_S,
                what="the daemon to have read all",
            )
            seconds = time.perf_counter() - begun
            wait_until(
                lambda: client.status()["hot_rows"] == 0,
                timeout_s=_TIMEOUT_S,
                what="the daemon to have sealed all",
            )
            sealed_s = time.perf_counter() - begun
    finally:
        over.set()
        watching.join()
    return Ingestion(
        seconds=seconds, sealed_s=sealed_s, rss_bytes=most[0], cpu_s=cpu_s(process) - before
    )


def _times(source: Source, sql: str, rounds: int) -> list[float]:
    """How long each answer took, after one that is not counted."""
    ask = partial(source.rows, sql)
    ask()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        assert ask()
        seconds.append(time.perf_counter() - begun)
    return seconds


def _slow(fleet: Fleet) -> set[str]:
    return {host_name_of(host) for host in fleet.slow_hosts()}


def _blamed(source: Source, fleet: Fleet) -> set[str]:
    """The hosts of as many first ranks as are slow."""
    count = len(fleet.slow_hosts()) * RANKS_PER_HOST
    return {str(host) for (host,) in source.rows(f"{_FIRST}{count}")}


def _ingestion_rows(ingestion: Ingestion, fleet: Fleet, load: str) -> list[Row]:
    rate = fleet.records / ingestion.seconds
    return [
        Row(
            name=f"fleet: ingestion ({load})",
            value=rate,
            unit="events/s",
            rounds=1,
            target=f">= {MIN_RATE}",
            met=rate >= MIN_RATE,
            note=f"{ingestion.seconds:.1f} s until all can be asked about, "
            f"{ingestion.sealed_s:.1f} s until all is sealed; "
            f"{ingestion.cpu_s:.1f} s of CPU; {fleet.world_size} segments",
        ),
        Row(
            name="fleet: the daemon's memory meanwhile, the most",
            value=ingestion.rss_bytes / 1e6,
            unit="MB",
            rounds=1,
            target=f"<= {MAX_RSS_BYTES / 1e6:.0f} MB",
            met=ingestion.rss_bytes <= MAX_RSS_BYTES,
        ),
    ]


def _query_row(name: str, seconds: list[float]) -> Row:
    value = median(seconds)
    return Row(
        name=f"fleet: {name}(run), asked of the daemon",
        value=value,
        unit="s",
        rounds=len(seconds),
        interval=median_interval(seconds),
        target=f"<= {MAX_QUERY_S} s",
        met=value <= MAX_QUERY_S,
    )
