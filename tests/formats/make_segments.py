"""Makes the fixtures of the segment format that this code writes: once, when it is released.

``python tests/formats/make_segments.py tests/formats/segment-v2``. What is there already is never
made anew: later code must read what the released code wrote. Expected rows are what was given to
the recorder, and not what a reader found::

    SPAN        name, start_ns, end_ns, step
    COLLECTIVE  name, group, group_size, sequence, size_bytes, start_ns, end_ns, step
    SAMPLE      name, at_ns, step, value (hexadecimal)
    EVENT       name, at_ns, subject, value (hexadecimal), attributes
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from collectors import spool_recorder
from collectors.recorder import Identity, Recorder, open_recorder

if TYPE_CHECKING:
    from collections.abc import Callable

    Rows = list[list[Any]]

IDENTITY = Identity(
    run_id="released-20260101-000000-abcd",
    role="trainer",
    rank=3,
    world_size=8,
    host="a-host-that-is-gone",
    coordinates={"tp": 1, "dp": 1},
)


class Writer:
    """Records, and keeps what it has recorded as rows."""

    def __init__(self, recorder: Recorder, clock: itertools.count[int]) -> None:
        self.recorder = recorder
        self.rows: Rows = []
        self._clock = clock

    def span(self, name: str, start_ns: int, end_ns: int, step: int = -1) -> None:
        self.recorder.record_span(name, start_ns, end_ns, step)
        self.rows.append(["SPAN", name, start_ns, end_ns, step])

    def collective(self, **row: Any) -> None:
        self.recorder.collective(**row)
        self.rows.append(["COLLECTIVE", *row.values()])

    def sample(self, name: str, value: float, step: int = -1) -> None:
        self.recorder.sample(name, value, step)
        self.rows.append(["SAMPLE", name, self._now(), step, value.hex()])

    def event(self, name: str, subject: int, value: float, **attributes: Any) -> None:
        self.recorder.event(name, subject=subject, value=value, attributes=attributes)
        text = json.dumps(attributes, separators=(",", ":")) if attributes else None
        self.rows.append(["EVENT", name, self._now(), subject, value.hex(), text])

    def _now(self) -> int:
        """The instant that the recorder took: each reading of this clock is one more."""
        return next(self._clock) - 1


def every_kind(writer: Writer) -> None:
    """Closed; each kind with plain and with extreme values, and texts of every length."""
    big = 2**63 - 1
    writer.span("forward", 1_000, 2_500, 7)
    writer.span("a name with spaces, 汉字 and é", 0, 0)
    writer.span("", -big, big, big)
    for group, size in (("tp[0,1]", 2), ("unknown", 0)):
        writer.collective(
            name="all_reduce", group=group, group_size=size, sequence=41, size_bytes=2**40,
            start_ns=5_000, end_ns=9_999, step=7,
        )  # fmt: skip
    for value in (0.1, -0.0, math.inf, math.nan, 5e-324):
        writer.sample("loss", value, 7)
    writer.event("request.arrived", 12, math.nan)
    writer.event("request.finished", 12, 3.5, reason="stop", tokens=[1, 2], said="汉" * 40)
    for length in (49, 50, 51, 100, 101, 4_000):
        writer.event("é" * (length // 2) + "x" * (length % 2), -1, 0.0, text="y" * length)


def blocks(writer: Writer) -> None:
    """Closed; two blocks, with a slot whose record could not be written."""
    for step in range(1_100):
        if step == 1_000:
            try:
                writer.recorder.record_span("forward", 1, 2, "none")  # type: ignore[arg-type]
            except struct.error:
                continue
        writer.span("forward" if step % 2 else "backward", step * 10, step * 10 + 7, step)


def unfinished(writer: Writer) -> None:
    """Left open, as by a process that was killed: a sealed block and some of the next."""
    for step in range(1_060):
        writer.span("step", step * 10, step * 10 + 7, step)
    writer.event("checkpoint.written", 1_059, 0.25, path="checkpoints/step-001060")


def make(directory: Path, fill: Callable[[Writer], None], *, closed: bool) -> None:
    name = fill.__name__.replace("_", "-")
    target = directory / f"{name}.seg.gz"
    if target.exists():
        raise SystemExit(f"{target} is there: what was released is not made anew")
    clock = itertools.count(1_000_000_000)
    with (
        tempfile.TemporaryDirectory() as spool,
        mock.patch.object(spool_recorder, "now_ns", lambda: next(clock)),
    ):
        recorder = open_recorder(Path(spool), IDENTITY)
        # The recorder's readings and the rows' take turns, so a row's time is its own less one.
        writer = Writer(recorder, clock)
        fill(writer)
        [path] = Path(spool).iterdir()
        if closed:
            recorder.close()
        target.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        recorder.close()
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in writer.rows)
    text = f'{{"closed": {json.dumps(closed)}, "rows": [\n{lines}\n]}}\n'
    (directory / f"{name}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    where.mkdir(parents=True, exist_ok=True)
    make(where, every_kind, closed=True)
    make(where, blocks, closed=True)
    make(where, unfinished, closed=False)
