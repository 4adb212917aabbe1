"""Processes that record numbered events, and the check that each of them is stored once."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from collectors.clock import now_ns
from collectors.run import RunDirectory
from opsuite.bench.tracing.producer import TALLY_SIZE, Job

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from collectors.query.source import Source

_MOST_LIVES = 4096
_START_S = 0.4  # a rank, in which interpreters start before the first event is due
_PATIENCE_S = 60.0

_EVENTS = """
    SELECT rank, step AS number FROM spans WHERE run_id = $1 AND name = 'bench.span'
    UNION ALL SELECT rank, step FROM samples WHERE run_id = $1 AND name = 'bench.sample'
    UNION ALL SELECT rank, step FROM collectives WHERE run_id = $1 AND name = 'bench.all_reduce'
    UNION ALL SELECT rank, subject FROM events WHERE run_id = $1 AND name = 'bench.event'
"""
_COUNTS = f"""
    SELECT rank, number // 100000000 AS life, count(*), count(DISTINCT number),
           max(number) % 100000000
    FROM ({_EVENTS}) GROUP BY ALL
"""  # noqa: S608 - texts of ours
_WRONG = """
    SELECT
      (SELECT count(*) FROM spans WHERE run_id = $1 AND name = 'bench.span'
          AND (end_ns < start_ns OR step % 8 <> 4 AND end_ns - start_ns <> 1000 + step % 97))
    + (SELECT count(*) FROM samples WHERE run_id = $1 AND name = 'bench.sample'
          AND (value IS NULL OR value <> step / 2))
    + (SELECT count(*) FROM collectives WHERE run_id = $1 AND name = 'bench.all_reduce'
          AND (size_bytes <> step OR sequence <> step OR "group" <> 'bench[0]'))
    + (SELECT count(*) FROM events WHERE run_id = $1 AND name = 'bench.event'
          AND (value <> subject / 2 OR (attributes ->> 'number')::BIGINT <> subject))
"""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What the store holds of what was recorded.

    Attributes:
        acknowledged: events whose call returned.
        stored: rows.
        lost: acknowledged events that are not stored.
        doubled: rows too many of one event.
        invented: events that nobody can have recorded.
        wrong: rows whose fields do not belong to their number.
    """

    acknowledged: int
    stored: int
    lost: int
    doubled: int
    invented: int
    wrong: int

    @property
    def right(self) -> bool:
        """Whether every event is there exactly once, as it was."""
        return self.lost == self.doubled == self.invented == self.wrong == 0

    def __str__(self) -> str:
        return (
            f"{self.acknowledged} acknowledged, {self.stored} stored, {self.lost} lost, "
            f"{self.doubled} doubled, {self.invented} invented, {self.wrong} wrong"
        )


@dataclass(kw_only=True)
class Producers:
    """Ranks of one run that record numbered events; use it as a context manager.

    Attributes:
        home: where the run is made.
        ranks: how many processes; each records ``rate`` events/s for ``seconds``.
        every_kind: collectives and events with attributes too.
        run: what they record; ``begin_ns``: when the first event is due (monotonic).
    """

    home: Path
    ranks: int
    rate: float
    seconds: float
    every_kind: bool = False
    run: RunDirectory = field(init=False)
    begin_ns: int = field(init=False, default=0)
    _processes: dict[int, subprocess.Popen[bytes]] = field(init=False, default_factory=dict)
    _lives: list[int] = field(init=False, default_factory=list)  # the rank of each tally slot

    def __enter__(self) -> Self:
        self.run = RunDirectory.create(
            self.home,
            name="bench producers",
            kind="training",
            command=["opsuite", "bench", "store"],
            config={},
            world_size=self.ranks,
        )
        self._tally.write_bytes(bytes(_MOST_LIVES * TALLY_SIZE))
        self.begin_ns = now_ns() + int(_START_S * self.ranks * 1e9)
        for rank in range(self.ranks):
            self.start(rank, begin_ns=self.begin_ns)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for rank in list(self._processes):
            self.kill(rank)
        self.run.finish("finished" if error is None else "interrupted", 0)

    @property
    def run_id(self) -> str:
        """The run that they record."""
        return self.run.run_id

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [process.pid for process in self._processes.values()]

    @property
    def _tally(self) -> Path:
        return self.run.path / "acknowledged"

    def start(self, rank: int, *, begin_ns: int | None = None) -> None:
        """Start a rank, again if it was killed."""
        life = self._lives.count(rank)
        job = Job(
            spool=str(self.run.spool),
            run_id=self.run_id,
            rank=rank,
            ranks=self.ranks,
            tally=str(self._tally),
            slot=len(self._lives),
            life=life,
            rate=self.rate,
            seconds=self.seconds,
            begin_ns=now_ns() if begin_ns is None else begin_ns,
            every_kind=self.every_kind,
        )
        self._lives.append(rank)
        assert len(self._lives) <= _MOST_LIVES
        command = [sys.executable, "-P", "-m", "opsuite.bench.tracing.producer", job.to_argument()]
        self._processes[rank] = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def kill(self, rank: int) -> None:
        """SIGKILL, wherever it is."""
        process = self._processes.pop(rank)
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()

    def wait(self) -> None:
        """Until all have recorded everything and ended; an assertion where one failed."""
        for rank, process in list(self._processes.items()):
            code = process.wait(self.seconds + _PATIENCE_S)
            assert code == 0, f"producer {rank} ended with {code}"
            del self._processes[rank]

    def acknowledged(self) -> dict[tuple[int, int], int]:
        """How many calls have returned, by rank and life."""
        data = self._tally.read_bytes()
        seen: Counter[int] = Counter()
        counts = {}
        for slot, rank in enumerate(self._lives):
            counts[rank, seen[rank]] = struct.unpack_from("<q", data, slot * TALLY_SIZE)[0]
            seen[rank] += 1
        return counts

    def stored(self, source: Source) -> int:
        """How many of their events the store holds."""
        sql = f"SELECT count(*) FROM ({_EVENTS})"  # noqa: S608 - texts of ours
        return int(source.rows(sql, [self.run_id])[0][0])

    def judge(self, source: Source) -> Verdict:
        """Compare what is stored with what was acknowledged; for when all have ended."""
        rows = {
            (rank, life): (count, distinct, most)
            for rank, life, count, distinct, most in source.rows(_COUNTS, [self.run_id])
        }
        expected = self.acknowledged()
        lost = invented = doubled = 0
        for key in expected.keys() | rows.keys():
            count, distinct, most = rows.get(key, (0, 0, -1))
            known = expected.get(key, 0)
            beyond = max(0, most + 1 - known)  # of these, one may be recorded and not yet returned
            doubled += count - distinct
            lost += max(0, known - max(0, distinct - beyond))
            invented += max(0, beyond - 1) if key in expected else distinct
        [(wrong,)] = source.rows(_WRONG, [self.run_id])
        return Verdict(
            acknowledged=sum(expected.values()),
            stored=sum(count for count, _, _ in rows.values()),
            lost=lost,
            doubled=doubled,
            invented=invented,
            wrong=int(wrong),
        )
