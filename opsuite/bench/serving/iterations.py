"""What a server of ours has recorded of its iterations."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home

if TYPE_CHECKING:
    from opsuite.bench.serving.live import LiveServer

_IDLE_NS = 20_000_000  # longer than it takes to decide and to tell


@dataclass(frozen=True, kw_only=True)
class Spent:
    """One iteration.

    Attributes:
        kind: decode, prefill or mixed.
        running: sequences in it.
        at_ns: its beginning, by the wall clock.
        seconds: until the next one's beginning; to its own end where the engine had nothing to do
            then, as far as can be seen.
    """

    kind: str
    running: int
    at_ns: int
    seconds: float


def iterations(server: LiveServer, begin_ns: int, end_ns: int) -> list[Spent]:
    """Of those that began in this time, but for the last."""
    with open_store(bench_home()) as store:
        rows = store.rows(
            "SELECT s.name, n.value, s.start_ns, s.end_ns FROM spans s JOIN samples n"
            " ON n.run_id = s.run_id AND n.step = s.step AND n.name = 'running_requests'"
            " WHERE s.run_id = ? AND s.start_ns BETWEEN ? AND ? ORDER BY s.step",
            [server.run, begin_ns, end_ns],
        )
    return [
        Spent(
            kind=kind,
            running=int(running),
            at_ns=at_ns,
            seconds=((next_ns if next_ns - end_ns < _IDLE_NS else end_ns) - at_ns) / 1e9,
        )
        for (kind, running, at_ns, end_ns), (_, _, next_ns, _) in pairwise(rows)
    ]
