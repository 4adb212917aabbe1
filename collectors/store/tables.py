"""The tables: what is stored, once each. People and playbooks read the views (:mod:`.views`).

Bulk tables lie in sealed Parquet files and in the hot tier; small ones are held in memory and come
from the index (:mod:`.catalogue`). Each is a relation ``raw.<name>`` of a session.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2
"""Of the index; version 1 kept all rows in DuckDB itself, and is made anew from the spools."""

_TEXT = pa.dictionary(pa.int32(), pa.string())


@dataclass(frozen=True, kw_only=True)
class StoredTable:
    """A table of the store.

    Attributes:
        about: one line for the documentation.
        schema: its columns; in Parquet ``run_id`` is the directory ``run=``.
        time: the column that says when, for the range of a sealed file; "" where there is none.
    """

    name: str
    about: str
    schema: pa.Schema
    time: str = ""


SPAN = StoredTable(
    name="span",
    about="what took time",
    schema=pa.schema(
        [
            ("run_id", _TEXT),
            ("process", pa.int64()),
            ("name", _TEXT),
            ("step", pa.int64()),
            ("start_ns", pa.int64()),
            ("end_ns", pa.int64()),
        ]
    ),
    time="start_ns",
)

COLLECTIVE = StoredTable(
    name="collective",
    about="a rank's part in a collective",
    schema=pa.schema(
        [
            ("run_id", _TEXT),
            ("process", pa.int64()),
            ("name", _TEXT),
            ("group", _TEXT),
            ("group_size", pa.int32()),
            ("sequence", pa.int64()),
            ("size_bytes", pa.int64()),
            ("step", pa.int64()),
            ("start_ns", pa.int64()),
            ("end_ns", pa.int64()),
        ]
    ),
    time="start_ns",
)

SAMPLE = StoredTable(
    name="sample",
    about="a measured value",
    schema=pa.schema(
        [
            ("run_id", _TEXT),
            ("process", pa.int64()),
            ("name", _TEXT),
            ("step", pa.int64()),
            ("at_ns", pa.int64()),
            ("value", pa.float64()),
        ]
    ),
    time="at_ns",
)

EVENT = StoredTable(
    name="event",
    about="what happened at an instant",
    schema=pa.schema(
        [
            ("run_id", _TEXT),
            ("process", pa.int64()),
            ("name", _TEXT),
            ("subject", pa.int64()),
            ("at_ns", pa.int64()),
            ("value", pa.float64()),
            ("attributes", pa.string()),
        ]
    ),
    time="at_ns",
)

ROLLUP = StoredTable(
    name="rollup",
    about="one row a second, process and name; several rows of one key add up",
    schema=pa.schema(
        [
            ("run_id", _TEXT),
            ("process", pa.int64()),
            ("kind", _TEXT),
            ("name", _TEXT),
            ("second", pa.int64()),
            ("count", pa.int64()),
            ("total", pa.float64()),
            ("least", pa.float64()),
            ("most", pa.float64()),
        ]
    ),
)

RUN = StoredTable(
    name="run",
    about="a run's manifest",
    schema=pa.schema(
        [
            ("run_id", pa.string()),
            ("name", pa.string()),
            ("kind", pa.string()),
            ("status", pa.string()),
            ("command", pa.string()),
            ("config", pa.string()),
            ("git_commit", pa.string()),
            ("version", pa.string()),
            ("host", pa.string()),
            ("pid", pa.int64()),
            ("world_size", pa.int64()),
            ("started_ns", pa.int64()),
            ("ended_ns", pa.int64()),
            ("exit_code", pa.int64()),
            ("notes", pa.string()),
            ("tags", pa.string()),
            ("pinned", pa.bool_()),
            ("expired", pa.int64()),
        ]
    ),
)

PROCESS = StoredTable(
    name="process",
    about="whoever records, with its host's clock; a forked child is a process of its own",
    schema=pa.schema(
        [
            ("run_id", pa.string()),
            ("process", pa.int64()),
            ("key", pa.string()),
            ("role", pa.string()),
            ("rank", pa.int32()),
            ("world_size", pa.int32()),
            ("host", pa.string()),
            ("boot_id", pa.string()),
            ("pid", pa.int64()),
            ("coordinates", pa.string()),
            ("opened_ns", pa.int64()),
            ("dropped", pa.int64()),
            # true time = t - clock_offset_ns - (t - clock_at_ns) * clock_drift, +- clock_error_ns
            ("clock_offset_ns", pa.int64()),
            ("clock_drift", pa.float64()),
            ("clock_at_ns", pa.int64()),
            ("clock_error_ns", pa.int64()),
        ]
    ),
)

DAMAGE = StoredTable(
    name="damage",
    about="a stretch of a spool file that was left out",
    schema=pa.schema(
        [
            ("run_id", pa.string()),
            ("file", pa.string()),
            ("position", pa.int64()),
            ("what", pa.string()),
        ]
    ),
)

BULK = {table.name: table for table in (SPAN, COLLECTIVE, SAMPLE, EVENT, ROLLUP)}
SMALL = {table.name: table for table in (RUN, PROCESS, DAMAGE)}
