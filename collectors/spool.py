"""The spool of a run: all segments of all its processes, read on from where one stopped."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.clock import host_name, process_lives, process_space
from collectors.errors import DataError, StorageError
from collectors.record import RECORD, definitions
from collectors.recorder import Identity
from collectors.segment import HEADER_SIZE, SUFFIX
from collectors.segment_reader import (
    Damage,
    Header,
    blocks_before,
    read_header,
    read_records,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from collectors.record import Records


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a segment was read.

    Attributes:
        offset: file offset of the next record.
        finished: nothing more will come.
    """

    offset: int = 0
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What was new in one segment.

    Attributes:
        segment: name of the file.
        process: key of the process that wrote it; "" where the header cannot be read, and then
            only ``damage`` says something.
        identity, pid, boot_id: who wrote it; None, 0, "" likewise.
        anchor_ns: what to add to its times to get the wall's; ``opened_ns``: when it was begun
            (monotonic), which tells the first of several.
        position: how far it is read now.
        dropped: records for which there was no space, so far.
        records: array of :data:`collectors.record.RECORD`, DEFINE records among them.
        names: texts by id.
        damage: stretches that were left out.
    """

    segment: str
    process: str = ""
    identity: Identity | None = None
    pid: int = 0
    boot_id: str = ""
    anchor_ns: int = 0
    opened_ns: int = 0
    position: Position
    dropped: int = 0
    records: Records
    names: Mapping[int, str]
    damage: tuple[Damage, ...] = ()


class SpoolReader:
    """Reads a spool directory again and again; each record comes once.

    Args:
        directory: the spool; it may not exist yet.
        positions: how far each segment was read before, by file name.
    """

    def __init__(self, directory: Path, positions: Mapping[str, Position] | None = None) -> None:
        self._directory = directory
        self._positions = dict(positions or {})
        self._names: dict[str, dict[int, str]] = {}

    def poll(self) -> list[Batch]:
        """What is new in each segment since the last time; segments without news are left out."""
        return list(self.batches())

    def batches(self) -> Iterator[Batch]:
        """As :meth:`poll`, a segment at a time."""
        for name in self._segments():
            before = self._positions.get(name, Position())
            if before.finished:
                continue
            batch = self._read(name, before)
            self._positions[name] = batch.position
            if batch.position != before:
                yield batch

    def _segments(self) -> list[str]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError.from_os_error(error, "reading the spool") from error
        return sorted(name for name in names if name.endswith(SUFFIX))

    def _read(self, name: str, before: Position) -> Batch:
        path = self._directory / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError.from_os_error(error, "reading the spool") from error
        try:
            header = read_header(path, os.pread(descriptor, HEADER_SIZE, 0))
            facts = _checked(path, header.facts)
            return self._read_on(descriptor, name, before, replace(header, facts=facts))
        except DataError as error:
            return _unreadable(name, error)
        finally:
            os.close(descriptor)

    def _read_on(self, descriptor: int, name: str, before: Position, header: Header) -> Batch:
        facts = header.facts
        finished = header.closed or _writer_is_gone(facts)  # as of before the reading
        known = self._names.get(name)
        if known is None:
            known = {}
            for records in blocks_before(descriptor, before.offset):
                known |= definitions(records)
        reading = read_records(descriptor, before.offset, finished=finished)
        records = np.concatenate([np.empty(0, dtype=RECORD), *reading.records])
        known |= definitions(records)
        self._names[name] = {} if finished else known
        return Batch(
            segment=name,
            process=facts["process"],
            identity=Identity(**{key: facts[key] for key in Identity.__dataclass_fields__}),
            pid=facts["pid"],
            boot_id=facts["boot_id"],
            anchor_ns=facts["wall_ns"] - facts["monotonic_ns"],
            opened_ns=facts["monotonic_ns"],
            position=Position(offset=reading.position, finished=finished),
            dropped=header.dropped or 0,
            records=records,
            names=known,
            damage=tuple(reading.damage),
        )


def _checked(path: Path, facts: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON
    """The facts of a header, if they are all there; a whole header of a strange writer is none."""
    wanted = {
        "run_id": str,
        "role": str,
        "world_size": int,
        "host": str,
        "coordinates": dict,
        "process": str,
        "pid": int,
        "boot_id": str,
        "process_space": str,
        "wall_ns": int,
        "monotonic_ns": int,
    }
    if not isinstance(facts, dict) or not isinstance(facts.get("rank", ""), int | None):
        raise DataError("the segment's header is not ours", where=str(path))
    if any(not isinstance(facts.get(key), kind) for key, kind in wanted.items()):
        raise DataError("the segment's header is not ours", where=str(path))
    return facts


def _writer_is_gone(facts: dict[str, Any]) -> bool:
    """Whether the writer was a process of this host, and is none any more."""
    if facts["host"] != host_name():
        return False
    if facts["process_space"] != process_space():
        return bool(facts["boot_id"] != process_space().partition("/")[0])  # an earlier boot
    return not process_lives(facts["pid"], since_ns=facts["wall_ns"])


def _unreadable(name: str, error: DataError) -> Batch:
    return Batch(
        segment=name,
        position=Position(offset=HEADER_SIZE, finished=True),
        records=np.empty(0, dtype=RECORD),
        names={},
        damage=(Damage(position=0, what=error.what),),
    )
