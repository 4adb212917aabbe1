"""Sealed files: Parquet, written whole or not at all."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from collectors.clock import host_name
from collectors.store.seal import SealedFile
from collectors.store.tables import BULK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_ROW_GROUP = 262_144


def write_parquet(
    parquet: Path, table: str, parts: Iterable[pa.Table], *, run_id: str, seal_id: str
) -> SealedFile:
    """Write rows of one run and table, a part at a time; synced when it returns.

    Raises:
        OSError: nothing is left of it.
    """
    path = parquet / file_path(table, run_id, seal_id)
    rows = 0
    with _draft(path) as draft, _writer(draft, table) as writer:
        for part in parts:
            kept = part.drop_columns(["run_id"]).unify_dictionaries()
            writer.write_table(kept, row_group_size=_ROW_GROUP)
            rows += part.num_rows
    relative = path.relative_to(parquet).as_posix()
    return SealedFile(table=table, path=relative, rows=rows, bytes=path.stat().st_size)


def file_path(table: str, run_id: str, seal_id: str) -> str:
    """Where a seal's file lies: by run, by the host that seals, and by the hour of sealing."""
    hour = time.strftime("%Y%m%d%H", time.gmtime(int(seal_id.partition("-")[0]) / 1e9))
    parts = (f"run={quote(run_id, safe='')}", f"host={quote(host_name(), safe='')}", f"hour={hour}")
    return "/".join((table, *parts, f"{seal_id}.parquet"))


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A name to write under; renamed to ``path`` and synced where the body succeeds."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    try:
        yield draft
        sync(draft)
        draft.replace(path)
        sync(path.parent)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _writer(path: Path, table: str) -> Iterator[pq.ParquetWriter]:
    schema = BULK[table].schema
    kept = schema.remove(schema.get_field_index("run_id"))
    ours = ("start_ns", "end_ns", "at_ns", "step", "sequence", "second", "subject")
    delta = {name: "DELTA_BINARY_PACKED" for name in kept.names if name in ours}
    texts = [name for name in kept.names if name in ("process", "name", "group", "kind")]
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with (
        os.fdopen(descriptor, "wb") as file,
        pq.ParquetWriter(
            file, kept, compression="zstd", use_dictionary=texts, column_encoding=delta
        ) as writer,
    ):
        yield writer


def read_parquet(parquet: Path, file: SealedFile, run_id: str) -> Iterator[pa.Table]:
    """A sealed file's rows, a row group at a time, with their run."""
    schema = BULK[file.table].schema
    with pq.ParquetFile(parquet / file.path) as source:
        for index in range(source.num_row_groups):
            group = source.read_row_group(index)
            zeros = pa.repeat(pa.scalar(0, pa.int32()), len(group))
            run = pa.DictionaryArray.from_arrays(zeros, [run_id])
            yield group.add_column(0, "run_id", run).select(schema.names).cast(schema)
