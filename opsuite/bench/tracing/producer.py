"""A process that records numbered events at a steady pace, and tallies what was acknowledged.

Started by :mod:`opsuite.bench.tracing.producers`. The tally is a mapped file, so it survives a
SIGKILL as the segments do: a number in it is that of calls that returned.
"""

from __future__ import annotations

import json
import mmap
import struct
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.clock import host_name, now_ns
from collectors.recorder import Identity, open_recorder

if TYPE_CHECKING:
    from collectors.recorder import Recorder

SPAN, SAMPLE, COLLECTIVE, EVENT = "bench.span", "bench.sample", "bench.all_reduce", "bench.event"
LIFE = 100_000_000  # events of the n-th life of a rank are numbered from n * LIFE on
TALLY_SIZE = 8
_BURST_S = 0.01
_ODD_NS = 97


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a producer does.

    Attributes:
        spool: where it records, for ``run_id`` as ``rank`` of ``ranks``.
        tally: a file; bytes ``slot * 8`` to ``slot * 8 + 8`` are this producer's.
        life: how often this rank was started before.
        rate: events per second; ``seconds``: for how long.
        begin_ns: monotonic time to begin at.
        every_kind: collectives and events with attributes too, and not spans and samples only.
    """

    spool: str
    run_id: str
    rank: int
    ranks: int
    tally: str
    slot: int
    life: int
    rate: float
    seconds: float
    begin_ns: int
    every_kind: bool

    def to_argument(self) -> str:
        """As a command line argument."""
        return json.dumps(asdict(self))


def produce(job: Job) -> None:
    """Record until the time is over; late bursts are made up for, so the number is exact."""
    identity = Identity(
        run_id=job.run_id,
        role="trainer",
        rank=job.rank,
        world_size=job.ranks,
        host=host_name(),
        coordinates={"dp": job.rank},
    )
    total = round(job.rate * job.seconds)
    with (
        Path(job.tally).open("r+b") as file,
        mmap.mmap(file.fileno(), 0) as tally,
        closing(open_recorder(Path(job.spool), identity)) as recorder,
    ):
        done = 0
        while done < total:
            elapsed = (now_ns() - job.begin_ns) / 1e9
            due = min(total, int(elapsed * job.rate))
            for number in range(done, due):
                _record(recorder, job.life * LIFE + number, every_kind=job.every_kind)
                struct.pack_into("<q", tally, job.slot * TALLY_SIZE, number + 1)
            done = max(done, due)
            time.sleep(_BURST_S)


def _record(recorder: Recorder, number: int, *, every_kind: bool) -> None:
    """One event; what it holds follows from its number, so that a wrong row can be told."""
    kind = number % (8 if every_kind else 2)
    at_ns = now_ns()
    if kind in (0, 2):
        recorder.record_span(SPAN, at_ns - span_ns(number), at_ns, number)
    elif kind == 4:
        with recorder.span(SPAN, number):
            pass
    elif kind == 6:
        recorder.collective(
            COLLECTIVE,
            group="bench[0]",
            group_size=1,
            sequence=number,
            size_bytes=number,
            start_ns=at_ns - span_ns(number),
            end_ns=at_ns,
            step=number,
        )
    elif kind == 7:
        recorder.event(EVENT, subject=number, value=number / 2, attributes={"number": number})
    else:
        recorder.sample(SAMPLE, number / 2, number)


def span_ns(number: int) -> int:
    """How long the span of this number says that it took."""
    return 1000 + number % _ODD_NS


if __name__ == "__main__":
    produce(Job(**json.loads(sys.argv[1])))
