"""Collects one long simulated run by an accelerated clock, and prints what it costs meanwhile.

``python -m opsuite.bench.tracing.simulated_day HOME HOURS`` is the process that is measured.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import psutil

from collectors.atomic import write_atomically
from collectors.record import RECORD, Kind
from collectors.recorder import Identity
from collectors.retention.keeper import RetentionKeeper, load_retention
from collectors.retention.usage import size_of
from collectors.run import RunDirectory
from collectors.store.collector import Collector
from collectors.store.index import Index
from collectors.store.lock import StoreLock
from opsuite.bench.tracing.simulated_rank import SimulatedRank, record_head

RANKS = 8
EVENTS_A_SECOND = 50  # of each rank
_ROUND_S = 60
_LOOK_EVERY = 10  # rounds
_CAP = 20_000_000
_NAMES = ("step", "forward", "backward", "optimizer", "loss")
_SETTINGS = f'[retention]\nrun_cap = "{_CAP // 1_000_000}MB"\n'


def main(home: Path, hours: float) -> None:
    """Minute by minute: record, tick, seal, tidy up, and look every ten minutes."""
    write_atomically(home / "collect.toml", _SETTINGS)
    assert load_retention(home).cap_bytes
    lock = StoreLock(home / "store.lock")
    lock.exclude(1.0)
    begun = time.perf_counter()
    run = RunDirectory.create(
        home,
        name="a long day",
        kind="training",
        command=["opsuite", "bench", "store"],
        config={},
        world_size=RANKS,
    )
    start_ns = time.time_ns()
    now = [start_ns]
    index = Index(home)
    collector = Collector(home, index, wall_ns=lambda: now[0])
    keeper = RetentionKeeper(home, collector.thin)
    ranks = [_rank(run.run_id, rank, start_ns) for rank in range(RANKS)]
    events = taken = expired = 0
    for number in range(round(hours * 3600 / _ROUND_S)):
        events += sum(_record(rank, run.spool, number) for rank in ranks)
        now[0] += _ROUND_S * 10**9
        more = True
        while more:
            tick = collector.tick()
            taken, more = taken + tick.rows, tick.more
        collector.seal()
        collector.maintain()
        plan = keeper.tick(now[0])
        expired += sum(thinning.rows for thinning in plan.thinnings) if plan is not None else 0
        if number % _LOOK_EVERY == _LOOK_EVERY - 1:
            look = {
                "hour": (now[0] - start_ns) / 3.6e12,
                "rss_bytes": psutil.Process().memory_info().rss,
                "disk_bytes": size_of(home),
                "events": events,
                "taken": taken,
                "expired": expired,
                "cap_bytes": _CAP,
                "wall_s": time.perf_counter() - begun,
            }
            sys.stdout.write(json.dumps(look) + "\n")
            sys.stdout.flush()
    collector.close()
    index.close()
    lock.release()


def _rank(run_id: str, rank: int, start_ns: int) -> SimulatedRank:
    return SimulatedRank(
        identity=Identity(
            run_id=run_id,
            role="trainer",
            rank=rank,
            world_size=RANKS,
            host="sim-0000",
            coordinates={"dp": rank},
        ),
        key=f"trainer{rank}-{1000 + rank}-{rank:08x}",
        pid=1000 + rank,
        boot_id="boot-0",
        wall_ns=start_ns,
    )


def _record(rank: SimulatedRank, spool: Path, number: int) -> int:
    """The ``number``-th minute of a rank, as one closed segment."""
    count = _ROUND_S * EVENTS_A_SECOND
    records = np.zeros(count, dtype=RECORD)
    place = np.arange(count)
    gap_ns = 10**9 // EVENTS_A_SECOND
    noise = np.random.default_rng([rank.pid, number])
    records["start_ns"] = number * _ROUND_S * 10**9 + place * gap_ns + noise.integers(gap_ns // 4)
    records["end_ns"] = records["start_ns"] + noise.integers(gap_ns // 2, gap_ns, count)
    records["step"] = (number * count + place) // len(_NAMES)
    kinds = [Kind.SPAN] * (len(_NAMES) - 1) + [Kind.SAMPLE]
    heads = np.array([record_head(kind, text) for text, kind in enumerate(kinds, 1)], np.uint64)
    records["head"] = heads[place % len(_NAMES)]
    samples = records[len(_NAMES) - 1 :: len(_NAMES)]
    samples["end_ns"] = 0
    samples["value"] = noise.normal(2.0, 0.1, len(samples))
    rank.write(spool, _NAMES, records, number=number)
    return count


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
