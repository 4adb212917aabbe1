"""The simulated fleet is a consistent run: whole segments, true groups, slow hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.record import Kind, kinds
from collectors.spool import SpoolReader
from opsuite.bench.tracing.simulated_fleet import RANKS_PER_HOST, SPANS, Fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from collectors.record import Records
    from collectors.spool import Batch

FLEET = Fleet(pp=2, dp=8, steps=50)


@pytest.fixture(scope="module")
def batches(tmp_path_factory: pytest.TempPathFactory) -> list[Batch]:
    """What the segments of all ranks hold, by rank."""
    spool = tmp_path_factory.mktemp("spool")
    written = FLEET.write("run", spool)
    assert written == _size(spool)
    found = SpoolReader(spool).poll()
    return sorted(found, key=_rank)


def _size(spool: Path) -> int:
    return sum(path.stat().st_size for path in spool.iterdir())


def _rank(batch: Batch) -> int:
    assert batch.identity is not None
    assert batch.identity.rank is not None
    return batch.identity.rank


def test_every_rank_has_a_whole_segment(batches: list[Batch]) -> None:
    assert [_rank(batch) for batch in batches] == list(range(FLEET.world_size))
    assert not any(batch.damage for batch in batches)
    spans = [np.count_nonzero(kinds(batch.records) == Kind.SPAN) for batch in batches]
    assert sum(spans) == FLEET.spans


def test_all_of_a_group_leave_a_collective_together(batches: list[Batch]) -> None:
    ends: dict[tuple[str, int], list[int]] = {}
    for batch in batches:
        for key, end_ns in _collectives(batch):
            ends.setdefault(key, []).append(end_ns)
    assert len(ends) == FLEET.steps * FLEET.pp * (FLEET.dp + RANKS_PER_HOST)
    assert all(len(set(group)) == 1 for group in ends.values())
    assert {len(group) for group in ends.values()} == {RANKS_PER_HOST, FLEET.dp}


def _collectives(batch: Batch) -> Iterator[tuple[tuple[str, int], int]]:
    own = batch.records[kinds(batch.records) == Kind.COLLECTIVE]
    columns = (own[name].tolist() for name in ("group", "sequence", "end_ns"))
    for group, sequence, end_ns in zip(*columns, strict=True):
        yield (batch.names[group], sequence), end_ns


def test_slow_hosts_do_their_own_work_slowest(batches: list[Batch]) -> None:
    order = np.argsort([-_median_ns(batch.records, "backward") for batch in batches])
    slow = FLEET.slow_hosts()
    first = order[: len(slow) * RANKS_PER_HOST] // RANKS_PER_HOST
    assert set(first.tolist()) == set(slow)


def _median_ns(records: Records, name: str) -> float:
    own = records[records["head"] == Kind.SPAN | (SPANS.index(name) + 1) << 32]
    return float(np.median(own["end_ns"] - own["start_ns"]))
