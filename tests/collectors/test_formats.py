"""What any released version has recorded stays readable: fixtures of every segment format."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from collectors.record import Kind, kinds, name_ids
from collectors.segment import SCHEMA_VERSION
from collectors.spool import SpoolReader

if TYPE_CHECKING:
    from collectors.spool import Batch

FORMATS = Path(__file__).parent.parent / "formats"
FIXTURES = sorted(FORMATS.glob("segment-v*/*.seg.gz"))


def written_out(batch: Batch) -> list[list[Any]]:
    """Rows as tests/formats/make_segments.py describes them."""
    found: list[list[Any]] = []
    names = zip(kinds(batch.records).tolist(), name_ids(batch.records).tolist(), strict=True)
    for (kind, name_id), record in zip(names, batch.records.tolist(), strict=True):
        _, start, end, step, sequence, value, group, size, attributes, _ = record
        name = batch.names.get(name_id)
        if kind == Kind.SPAN:
            found.append(["SPAN", name, start, end, step])
        elif kind == Kind.COLLECTIVE:
            of = batch.names.get(group)
            found.append(["COLLECTIVE", name, of, size, sequence, int(value), start, end, step])
        elif kind == Kind.SAMPLE:
            found.append(["SAMPLE", name, start, step, value.hex()])
        elif kind == Kind.EVENT:
            text = batch.names[attributes] if attributes else None
            found.append(["EVENT", name, start, step, value.hex(), text])
    return found


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_released_format_is_read_whole(fixture: Path, tmp_path: Path) -> None:
    expected = json.loads(Path(str(fixture).replace(".seg.gz", ".json")).read_text("utf-8"))
    content = gzip.decompress(fixture.read_bytes())
    (tmp_path / "of-a-process.00000.seg").write_bytes(content)
    [batch] = SpoolReader(tmp_path).poll()
    assert written_out(batch) == expected["rows"]
    assert not batch.damage
    assert batch.position.finished == expected["closed"]
    assert batch.dropped == 0
    assert batch.identity is not None
    assert (batch.identity.run_id, batch.identity.role) == (
        "released-20260101-000000-abcd",
        "trainer",
    )
    assert (batch.identity.rank, batch.identity.world_size) == (3, 8)
    assert batch.identity.coordinates == {"tp": 1, "dp": 1}


def test_there_are_fixtures_of_every_format_up_to_this_one() -> None:
    versions = {int(path.parent.name.removeprefix("segment-v")) for path in FIXTURES}
    assert versions == set(range(1, SCHEMA_VERSION + 1))
