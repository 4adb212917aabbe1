"""A run to record into, and recorders for its ranks."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from collectors.clock import host_name
from collectors.record import Kind, kinds, name_ids
from collectors.recorder import Identity, Recorder, open_recorder
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from collectors.spool import Batch

    Rows = Callable[[Iterable[Batch]], list[tuple[Any, ...]]]


def _rows(batches: Iterable[Batch]) -> list[tuple[Any, ...]]:
    """Records with their texts, as one would write them down."""
    found: list[tuple[Any, ...]] = []
    for batch in batches:
        names = zip(kinds(batch.records).tolist(), name_ids(batch.records).tolist(), strict=True)
        for (kind, name), record in zip(names, batch.records.tolist(), strict=True):
            _, start, end, step, sequence, value, group, size, attributes, _ = record
            told = (batch.names.get(name), start, end, step)
            if kind == Kind.SPAN:
                found.append((kind, *told))
            elif kind == Kind.COLLECTIVE:
                found.append((kind, *told, sequence, value, batch.names.get(group), size))
            elif kind == Kind.SAMPLE:
                found.append((kind, told[0], step, struct.pack("<d", value)))
            elif kind == Kind.EVENT:
                text = batch.names.get(attributes)
                found.append((kind, told[0], step, struct.pack("<d", value), text))
    return found


@pytest.fixture(scope="session")
def rows() -> Rows:
    """Turns batches into rows of plain values."""
    return _rows


@pytest.fixture(scope="session")
def identity() -> Identity:
    """A rank of some other host, whose processes cannot be looked up here."""
    return Identity(
        run_id="r", role="trainer", rank=3, world_size=8, host="elsewhere", coordinates={"tp": 1}
    )


@pytest.fixture
def run(home: Path) -> RunDirectory:
    """A training run of two ranks that has just begun."""
    return RunDirectory.create(
        home, name="test", kind="training", command=["opsuite"], config={}, world_size=2
    )


@pytest.fixture
def open_rank(run: RunDirectory) -> Iterator[Callable[[int | None], Recorder]]:
    """Opens a recorder for a rank of that run; closed after the test."""
    opened: list[Recorder] = []

    def open_one(rank: int | None) -> Recorder:
        identity = Identity(
            run_id=run.run_id,
            role="server" if rank is None else "trainer",
            rank=rank,
            world_size=2,
            host=host_name(),
            coordinates={} if rank is None else {"tp": rank},
        )
        opened.append(open_recorder(run.spool, identity))
        return opened[-1]

    yield open_one
    for recorder in opened:
        recorder.close()
