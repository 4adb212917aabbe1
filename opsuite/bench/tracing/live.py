"""8 processes that record 100,000 events a second while a client asks: lag, cost, exactly once."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from collectors.clock import host_name, now_ns
from collectors.errors import OpsuiteError
from collectors.recorder import Identity, open_recorder
from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import (
    Collecting,
    children_cpu_s,
    cpu_s,
    temporary_home,
    wait_for_rows,
)
from opsuite.bench.tracing.producers import Producers

if TYPE_CHECKING:
    from collections.abc import Callable

    import psutil

    from collectors.daemon.client import DaemonClient
    from collectors.recorder import Recorder
    from opsuite.bench.tracing.producers import Verdict

MAX_LAG_S = 0.5
MAX_CPU_SHARE = 0.2
MAX_QUERY_S = 0.1
_MARKER = "bench.marker"
_PAUSE_S = 0.02
_QUERIES_EVERY_S = 0.5
_LAST_5_S = """
    SELECT rank, quantile_cont(duration_s, 0.99) FROM spans
    WHERE run_id = $1 AND start_ns > $2 GROUP BY rank ORDER BY rank
"""
_SEEN = "SELECT coalesce(max(subject), -1) FROM events WHERE run_id = $1 AND name = 'bench.marker'"


@dataclass(kw_only=True)
class Watch:
    """What was seen from outside while the producers ran.

    Attributes:
        queries_s: how long the client's questions took.
        markers_s: from the recording of an event to its being in an answer.
        rss_bytes: of the daemon, the most.
        cpu_share, readers_share: of one core, by the daemon itself and by its readers.
        errors: questions that got no answer.
    """

    queries_s: list[float] = field(default_factory=list)
    markers_s: list[float] = field(default_factory=list)
    rss_bytes: int = 0
    cpu_share: float = 0.0
    readers_share: float = 0.0
    errors: list[str] = field(default_factory=list)


def measure(*, ranks: int = 8, rate: float = 12_500, seconds: float = 30.0) -> list[Row]:
    """One run of ``ranks`` producers on a fresh home with a daemon of its own."""
    with temporary_home("live") as home, Collecting(home=home) as daemon:
        with Producers(home=home, ranks=ranks, rate=rate, seconds=seconds) as producers:
            watch = _watch(daemon, producers)
        with daemon.connect() as client:
            recorded = sum(producers.acknowledged().values())
            wait_for_rows(producers.stored, client, recorded)
            verdict = producers.judge(client)
            lag = client.status()["lag"]["since_start"]
    load = f"{ranks} processes x {rate:.0f} events/s for {seconds:.0f} s"
    return _rows(load, verdict, watch, lag, expected=round(ranks * rate * seconds))


def _watch(daemon: Collecting, producers: Producers) -> Watch:
    """Ask, mark and meter until the producers have ended."""
    watch, over = Watch(), threading.Event()
    with closing(open_recorder(producers.run.spool, _witness(producers))) as recorder:
        turns = (_asking(producers, watch), _marking(producers, recorder, watch))
        threads = [
            *(threading.Thread(target=_loop, args=(daemon, over, watch, turn)) for turn in turns),
            threading.Thread(target=_meter, args=(daemon.process, producers, over, watch)),
        ]
        for thread in threads:
            thread.start()
        try:
            producers.wait()
        finally:
            over.set()
            for thread in threads:
                thread.join()
    return watch


def _witness(producers: Producers) -> Identity:
    """Who records the markers."""
    return Identity(
        run_id=producers.run_id,
        role="bench",
        rank=None,
        world_size=producers.ranks,
        host=host_name(),
        coordinates={},
    )


def _loop(
    daemon: Collecting,
    over: threading.Event,
    watch: Watch,
    turn: Callable[[DaemonClient], None],
) -> None:
    """Do ``turn`` with a client of this thread's own until it is over."""
    with daemon.connect() as client:
        while not over.is_set():
            try:
                turn(client)
            except OpsuiteError as error:
                watch.errors.append(str(error))
                over.wait(_QUERIES_EVERY_S)


def _asking(producers: Producers, watch: Watch) -> Callable[[DaemonClient], None]:
    def ask(client: DaemonClient) -> None:
        start = time.perf_counter()
        client.rows(_LAST_5_S, [producers.run_id, time.time_ns() - 5_000_000_000])
        taken = time.perf_counter() - start
        watch.queries_s.append(taken)
        time.sleep(max(0.0, _QUERIES_EVERY_S - taken))

    return ask


def _marking(
    producers: Producers, recorder: Recorder, watch: Watch
) -> Callable[[DaemonClient], None]:
    def mark(client: DaemonClient) -> None:
        number = len(watch.markers_s)
        recorder.event(_MARKER, subject=number)
        recorded = time.perf_counter()
        deadline = recorded + 20 * MAX_LAG_S
        while client.rows(_SEEN, [producers.run_id]) < [(number,)]:
            if time.perf_counter() > deadline:
                break
            time.sleep(_PAUSE_S)
        watch.markers_s.append(time.perf_counter() - recorded)
        time.sleep(_QUERIES_EVERY_S)

    return mark


def _meter(
    process: psutil.Process, producers: Producers, over: threading.Event, watch: Watch
) -> None:
    """From the first event to the last."""
    over.wait(max(0, producers.begin_ns - now_ns()) / 1e9)
    begun, own, readers = time.monotonic(), cpu_s(process), children_cpu_s(process)
    while not over.wait(_QUERIES_EVERY_S):
        watch.rss_bytes = max(watch.rss_bytes, process.memory_info().rss)
        taken = time.monotonic() - begun
        watch.cpu_share = (cpu_s(process) - own) / taken
        watch.readers_share = (children_cpu_s(process) - readers) / taken


def _rows(
    load: str, verdict: Verdict, watch: Watch, lag: dict[str, float], *, expected: int
) -> list[Row]:
    p50, p99 = (float(lag[name]) for name in ("p50_s", "p99_s"))
    marks, asked = np.array(watch.markers_s or [np.nan]), np.array(watch.queries_s or [np.nan])
    query_s, query_p99_s = float(np.median(asked)), float(np.quantile(asked, 0.99))
    mark_p99_s = float(np.quantile(marks, 0.99))
    exact = verdict.right and verdict.stored == verdict.acknowledged == expected
    return [
        Row(
            name=f"live: events stored exactly once ({load})",
            value=verdict.stored,
            unit=f"of {expected}",
            rounds=1,
            target="all",
            met=exact,
            note=str(verdict),
        ),
        Row(name="live: lag p50, by the daemon", value=p50, unit="s", rounds=1),
        Row(
            name="live: lag p99, by the daemon",
            value=p99,
            unit="s",
            rounds=1,
            target=f"<= {MAX_LAG_S} s",
            met=p99 <= MAX_LAG_S,
        ),
        Row(
            name="live: lag p99, from outside",
            value=mark_p99_s,
            unit="s",
            rounds=len(watch.markers_s),
            note=f"p50 {np.median(marks):.3f} s; from an event's recording to its being in an "
            "answer, with the time of the query and up to 20 ms between two",
        ),
        Row(
            name="live: the daemon's share of a core",
            value=watch.cpu_share,
            unit="cores",
            rounds=1,
            target=f"<= {MAX_CPU_SHARE}",
            met=watch.cpu_share <= MAX_CPU_SHARE,
            note=f"its readers, which answer the queries: {watch.readers_share:.3f}; "
            f"the most memory: {watch.rss_bytes / 1e6:.0f} MB",
        ),
        Row(
            name="live: p99 of duration by rank over the last 5 s, p50 of the query",
            value=query_s,
            unit="s",
            rounds=len(watch.queries_s),
            target=f"<= {MAX_QUERY_S} s",
            met=query_s <= MAX_QUERY_S and not watch.errors,
            note=f"p99 {query_p99_s:.3f} s; {len(watch.errors)} failed"
            + (f": {watch.errors[0]}" if watch.errors else ""),
        ),
    ]
