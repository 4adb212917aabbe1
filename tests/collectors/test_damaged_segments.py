"""A segment cut at any byte, or with a byte flipped, gives right rows or none."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from collectors.recorder import open_recorder
from collectors.segment import BLOCK_SIZE, HEADER_SIZE
from collectors.spool import SpoolReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from typing import Any

    from collectors.recorder import Identity
    from collectors.spool import Batch

    Rows = Callable[[Iterable[Batch]], list[tuple[Any, ...]]]

SPANS = 12
EXPECTED = [(2, "forward", step, step + 5, step) for step in range(SPANS)]


def small_segment(directory: Path, identity: Identity, *, closed: bool) -> tuple[Path, bytes]:
    """A segment in a directory of its own, and its content."""
    recorder = open_recorder(directory, identity)
    for _, name, start, end, step in EXPECTED:
        recorder.record_span(name, start, end, step)
    [path] = directory.iterdir()
    if closed:
        recorder.close()
    content = path.read_bytes()[: HEADER_SIZE + 64 * (SPANS + 2)]
    recorder.close()
    return path, content


@pytest.mark.parametrize("closed", [True, False])
def test_cut_at_every_byte(rows: Rows, identity: Identity, tmp_path: Path, closed: bool) -> None:
    path, content = small_segment(tmp_path, identity, closed=closed)
    for length in (*range(0, HEADER_SIZE, 37), *range(HEADER_SIZE, len(content))):
        path.write_bytes(content[:length])
        [batch] = SpoolReader(tmp_path).poll()
        found = rows([batch])
        assert found == EXPECTED[: len(found)], length
        if length < HEADER_SIZE or (closed and length > HEADER_SIZE):
            assert batch.damage, f"cut at {length}: nobody was told"
            assert not found
        elif not closed:
            assert len(found) == max(0, (length - HEADER_SIZE) // 64 - 2)


def test_every_flipped_byte(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    path, content = small_segment(tmp_path, identity, closed=True)
    chance = random.Random(0)
    used = [*range(0, 200, 3), *range(HEADER_SIZE, len(content))]
    for position in used:
        flipped = bytearray(content)
        flipped[position] ^= chance.randrange(1, 256)
        path.write_bytes(flipped)
        [batch] = SpoolReader(tmp_path).poll()
        assert rows([batch]) in ([], EXPECTED), position
        assert batch.identity in (None, identity)
        assert batch.dropped == 0
        if position >= HEADER_SIZE:
            assert rows([batch]) == []
            assert batch.damage[0].position == HEADER_SIZE


def test_a_damaged_block_does_not_take_the_others_with_it(
    rows: Rows, identity: Identity, tmp_path: Path
) -> None:
    recorder = open_recorder(tmp_path, identity)
    for step in range(5000):
        recorder.record_span("forward", step, step + 5, step)
    recorder.close()
    [path] = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[HEADER_SIZE + 2 * BLOCK_SIZE + 4000] ^= 1
    path.write_bytes(content)
    [batch] = SpoolReader(tmp_path).poll()
    assert [damage.position for damage in batch.damage] == [HEADER_SIZE + 2 * BLOCK_SIZE]
    steps = [row[4] for row in rows([batch])]
    assert steps == [*range(2 * 1023 - 1), *range(3 * 1023 - 1, 5000)]


def test_strange_files_in_a_spool_are_told(rows: Rows, identity: Identity, tmp_path: Path) -> None:
    (tmp_path / "a.seg").write_bytes(b"\0" * 100_000)
    (tmp_path / "b.seg").write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"not ours")
    reader = SpoolReader(tmp_path)
    batches = reader.poll()
    assert [(batch.segment, len(batch.damage)) for batch in batches] == [("a.seg", 1), ("b.seg", 1)]
    assert reader.poll() == []
