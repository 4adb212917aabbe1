"""From the records of segments to Arrow tables."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from collectors.record import Kind, kinds, name_ids
from collectors.store.tables import COLLECTIVE, EVENT, SAMPLE, SPAN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from collectors.record import Records
    from collectors.spool import Batch
    from collectors.store.tables import StoredTable

    Columns = dict[str, NDArray[Any]]

_NO_TEXT = -1
_TABLES = {
    Kind.SPAN: SPAN,
    Kind.COLLECTIVE: COLLECTIVE,
    Kind.SAMPLE: SAMPLE,
    Kind.EVENT: EVENT,
}
_FROM_RECORD = {"at_ns": "start_ns", "subject": "step", "size_bytes": "value"}


def process_id(run_id: str, key: str) -> int:
    """The number of a process in the store: the same on every machine that reads it."""
    digest = blake2b(f"{run_id}/{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class Frames:
    """Collects what was read of one run's segments, and makes tables of all of it.

    Attributes:
        rows: how many records it holds.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._texts: dict[str, int] = {}  # names and groups
        self._attributes: dict[str, int] = {}
        self._frames: list[Columns] = []
        self.rows = 0

    def add(self, batch: Batch, offset_ns: int) -> None:
        """Add a segment's records; ``offset_ns`` leads from its clock to the wall's."""
        which = kinds(batch.records)
        records = batch.records[which >= Kind.SPAN]
        if not len(records):
            return
        number = process_id(self._run_id, batch.process)
        start_ns, end_ns = records["start_ns"] + offset_ns, records["end_ns"] + offset_ns
        self._frames.append(
            {
                "kind": which[which >= Kind.SPAN],
                "process": np.full(len(records), number, dtype=np.int64),
                "name": _codes(name_ids(records), batch.names, self._texts),
                "group": _codes(records["group"], batch.names, self._texts),
                "attributes": _codes(records["attributes"], batch.names, self._attributes),
                "start_ns": start_ns,
                "end_ns": np.maximum(start_ns, end_ns),
                **{name: records[name] for name in ("step", "sequence", "value", "group_size")},
            }
        )
        self.rows += len(records)

    def tables(self) -> dict[str, pa.Table]:
        """One table of each kind that occurred, by its name."""
        if not self._frames:
            return {}
        columns = {
            name: np.concatenate([frame[name] for frame in self._frames])
            for name in self._frames[0]
        }
        texts = {
            "attributes": pa.array(list(self._attributes), pa.string()),
            "name": (names := pa.array(list(self._texts), pa.string())),
            "group": names,
        }
        made = {}
        for kind, table in _TABLES.items():
            chosen = columns["kind"] == kind
            if chosen.any():
                rows = {name: column[chosen] for name, column in columns.items()}
                made[table.name] = self._table(table, rows, texts)
        return made

    def _table(self, table: StoredTable, rows: Columns, texts: dict[str, pa.Array]) -> pa.Table:
        return pa.table([self._column(field, rows, texts) for field in table.schema], table.schema)

    def _column(self, field: pa.Field, rows: Columns, texts: dict[str, pa.Array]) -> pa.Array:
        if field.name == "run_id":
            zeros = np.zeros(len(rows["kind"]), dtype=np.int32)
            return pa.DictionaryArray.from_arrays(zeros, [self._run_id])
        values = rows[_FROM_RECORD.get(field.name, field.name)]
        if pa.types.is_dictionary(field.type) or pa.types.is_string(field.type):
            coded = pa.DictionaryArray.from_arrays(_indices(values), texts[field.name])
            return coded if pa.types.is_dictionary(field.type) else coded.cast(pa.string())
        if field.name == "value" and rows["kind"][0] == Kind.EVENT:
            return pa.array(values, mask=np.isnan(values))  # an event without a value
        return pa.array(values).cast(field.type, safe=False)


def _indices(codes: NDArray[np.int32]) -> pa.Array:
    """Codes as dictionary indices; NULL where there is no text."""
    return pa.array(codes, mask=codes == _NO_TEXT)


def _codes(
    identifiers: NDArray[Any], names: Mapping[int, str], texts: dict[str, int]
) -> NDArray[np.int32]:
    """For each text id of a segment the number of the text among all of these frames."""
    unknown = max(names, default=0) + 1
    known = np.minimum(identifiers, unknown).astype(np.int64)
    codes = np.full(unknown + 1, _NO_TEXT, dtype=np.int32)
    for identifier in np.flatnonzero(np.bincount(known, minlength=unknown + 1)).tolist():
        if (text := names.get(identifier)) is not None:
            codes[identifier] = texts.setdefault(text, len(texts))
    found: NDArray[np.int32] = codes[known]
    return found


def times(records: Records) -> NDArray[np.int64]:
    """When each record was made, by its process's clock: a span's end, else its instant."""
    which = kinds(records)
    kept = records[which >= Kind.SPAN]
    timed = which[which >= Kind.SPAN] <= Kind.COLLECTIVE
    moments: NDArray[np.int64] = np.where(timed, kept["end_ns"], kept["start_ns"])
    return moments
