"""A 64-KiB segment cut at every byte, and with every third byte flipped: right rows or none."""

from __future__ import annotations

import os
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.record import RECORD_SIZE
from collectors.recorder import Identity, open_recorder
from collectors.segment import BLOCK_SIZE, HEADER_SIZE
from collectors.spool import SpoolReader
from opsuite.bench.result import Row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.spool import Batch

_FLIP = 0x5A
_EVENT_EVERY = 100
_MOST_NAMED = 3
_LAST_SLOT = HEADER_SIZE + BLOCK_SIZE - RECORD_SIZE
_WHO = Identity(  # of another host, so that nobody looks for the process here
    run_id="damage", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={"tp": 1}
)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment before anything happened to it, alone in its spool.

    Attributes:
        path: the file; ``content``: what it holds.
        batch: what reading it gives.
    """

    path: Path
    content: bytes
    batch: Batch

    @classmethod
    def record(cls, spool: Path, *, closed: bool) -> Segment:
        """Fill a header and one block of 64 KiB with every kind of record."""
        with closing(open_recorder(spool, _WHO)) as recorder:
            [path] = spool.iterdir()
            number = 0
            while not path.read_bytes()[_LAST_SLOT]:
                recorder.record_span("forward", number, number + 5, number)
                recorder.sample("loss", number / 7, number)
                if number % _EVENT_EVERY == 0:
                    recorder.event("checkpoint", subject=number, attributes={"step": number})
                number += 1
            content = path.read_bytes()
        if closed:
            content = path.read_bytes()
        content = content[: HEADER_SIZE + BLOCK_SIZE]
        path.write_bytes(content)
        [batch] = SpoolReader(spool).poll()
        return cls(path=path, content=content, batch=batch)

    def is_right(self) -> bool:
        """Whether what can be read now is the first records of the whole segment, or nothing."""
        batches = SpoolReader(self.path.parent).poll()
        return all(self._agrees(batch) for batch in batches)

    def _agrees(self, found: Batch) -> bool:
        whole = self.batch
        if found.identity is None:
            return not len(found.records) and bool(found.damage)
        same = (found.identity, found.process, found.pid, found.boot_id, found.anchor_ns) == (
            whole.identity,
            whole.process,
            whole.pid,
            whole.boot_id,
            whole.anchor_ns,
        )
        count = len(found.records)
        return (
            same
            and found.records.tobytes() == whole.records[:count].tobytes()
            and all(whole.names.get(key) == text for key, text in found.names.items())
        )


def measure(*, cut_step: int = 1, flip_step: int = 3) -> list[Row]:
    """Cut at every ``cut_step``-th byte, closed or still open; flip every ``flip_step``-th."""
    return [_row(*_cuts(cut_step)), _row(*_flips(flip_step))]


def _cuts(step: int) -> tuple[str, int, list[str]]:
    wrong: list[str] = []
    cases = 0
    for closed in (True, False):
        with tempfile.TemporaryDirectory() as spool:
            segment = Segment.record(Path(spool), closed=closed)
            for length in range(len(segment.content) - 1, -1, -step):
                os.truncate(segment.path, length)
                cases += 1
                wrong += _told(segment, f"cut at {length}, {'closed' if closed else 'open'}")
    return "cut at every byte", cases, wrong


def _flips(step: int) -> tuple[str, int, list[str]]:
    wrong: list[str] = []
    positions = range(0, HEADER_SIZE + BLOCK_SIZE, step)
    with tempfile.TemporaryDirectory() as spool:
        segment = Segment.record(Path(spool), closed=True)
        with segment.path.open("r+b", buffering=0) as file:
            for position in positions:
                for value in (segment.content[position] ^ _FLIP, segment.content[position]):
                    os.pwrite(file.fileno(), bytes([value]), position)
                    if value != segment.content[position]:
                        wrong += _told(segment, f"byte {position} flipped")
    return "every third byte flipped", len(positions), wrong


def _told(segment: Segment, what: str) -> Iterator[str]:
    try:
        if not segment.is_right():
            yield what
    except Exception as error:  # noqa: BLE001 - a crash of any kind is what is looked for
        yield f"{what}: {type(error).__name__} {error}"


def _row(what: str, cases: int, wrong: list[str]) -> Row:
    return Row(
        name=f"damage: a 64-KiB segment {what}, wrong rows or crashes",
        value=len(wrong),
        unit=f"of {cases}",
        rounds=cases,
        target="0",
        met=not wrong,
        note="; ".join(wrong[:_MOST_NAMED]),
    )
