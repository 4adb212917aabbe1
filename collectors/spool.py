"""The spool of a run: all segments of all its processes, read on from where one stopped."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from collectors.clock import host_name, process_lives_since, process_space
from collectors.errors import DataError, StorageError
from collectors.record import RECORD, Texts
from collectors.recorder import Identity
from collectors.segment import HEADER_SIZE, SUFFIX
from collectors.segment_reader import (
    Damage,
    NewerSegment,
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


_NEW = Position()


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


@dataclass(kw_only=True)
class _OpenSegment:
    """What is kept of a segment that will be read again."""

    facts: dict[str, Any]
    identity: Identity
    texts: Texts = field(default_factory=Texts)
    dropped: int = 0


class SpoolReader:
    """Reads a spool directory again and again; each record comes once.

    A segment that a newer opsuite wrote is told once and left as it is, unfinished: a newer reader
    goes on with it. One that disappears was deleted by who had taken all of it.

    Args:
        directory: the spool; it may not exist yet.
        positions: how far each segment was read before, by file name.
    """

    def __init__(self, directory: Path, positions: Mapping[str, Position] | None = None) -> None:
        self._directory = directory
        self._positions = dict(positions or {})
        self._open: dict[str, _OpenSegment] = {}

    def poll(self) -> list[Batch]:
        """What is new in each segment since the last time; segments without news are left out."""
        return list(self.batches())

    def batches(self) -> Iterator[Batch]:
        """As :meth:`poll`, a segment (or 16 MiB of it) at a time."""
        names = self._segments()
        for gone in self._open.keys() - set(names):
            del self._open[gone]
        for name in names:
            more = not self._positions.get(name, _NEW).finished
            while more:
                before = self._positions.get(name, _NEW)
                known = self._open.get(name)
                dropped = 0 if known is None else known.dropped
                batch, more = self._read(name, before)
                if batch is None:
                    break
                self._positions[name] = batch.position
                if batch.position != before or batch.dropped != dropped:
                    yield batch

    def _segments(self) -> list[str]:
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - names are all that is wanted
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError.from_os_error(error, "reading the spool") from error
        return sorted(name for name in names if name.endswith(SUFFIX))

    def _read(self, name: str, before: Position) -> tuple[Batch | None, bool]:
        """What is new in a segment, None where there is none any more; and whether that is all."""
        path = self._directory / name
        try:
            # Not blocking: a named pipe would wait for somebody to write.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None, False
        except OSError as error:
            raise StorageError.from_os_error(error, "reading the spool") from error
        try:
            return self._read_on(descriptor, path, before)
        except DataError as error:
            self._open.pop(name, None)
            return _unreadable(name, error), False
        finally:
            os.close(descriptor)

    def _read_on(self, descriptor: int, path: Path, before: Position) -> tuple[Batch, bool]:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DataError("not a file, and no segment", where=str(path))
        header = read_header(path, os.pread(descriptor, HEADER_SIZE, 0))
        known = self._open.get(path.name)
        if known is None:
            facts = _checked(path, header.facts)
            known = _OpenSegment(facts=facts, identity=_identity(facts))
            for records in blocks_before(descriptor, before.offset):
                known.texts.read(records)
                known.texts.forget(records)
        ended = header.closed or _writer_is_gone(known.facts)  # as of before the reading
        reading = read_records(descriptor, before.offset, finished=ended)
        finished = ended and not reading.more
        records = _joined(reading.records)
        known.texts.read(records)
        names = known.texts.known
        known.dropped = header.dropped or 0
        if finished:
            self._open.pop(path.name, None)
        else:
            names = dict(names)
            known.texts.forget(records)
            self._open[path.name] = known
        batch = Batch(
            segment=path.name,
            process=known.facts["process"],
            identity=known.identity,
            pid=known.facts["pid"],
            boot_id=known.facts["boot_id"],
            anchor_ns=known.facts["wall_ns"] - known.facts["monotonic_ns"],
            opened_ns=known.facts["monotonic_ns"],
            position=Position(offset=reading.position, finished=finished),
            dropped=known.dropped,
            records=records,
            names=names,
            damage=tuple(reading.damage),
        )
        return batch, reading.more


def _joined(parts: list[Records]) -> Records:
    filled = [part for part in parts if len(part)]
    if len(filled) <= 1:
        return filled[0] if filled else np.empty(0, dtype=RECORD)
    joined: Records = np.concatenate(filled)
    return joined


def _identity(facts: dict[str, Any]) -> Identity:
    return Identity(**{key: facts[key] for key in Identity.__dataclass_fields__})


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
    return not process_lives_since(facts["pid"], facts["monotonic_ns"])


def _unreadable(name: str, error: DataError) -> Batch:
    newer = isinstance(error, NewerSegment)
    what = f"{error.what}: {error.remedy}" if error.remedy else error.what
    return Batch(
        segment=name,
        position=Position(offset=HEADER_SIZE, finished=not newer),
        records=np.empty(0, dtype=RECORD),
        names={},
        damage=(Damage(position=0, what=what),),
    )
