"""Dumps of PyTorch's flight recorder: what each rank enqueued, started and completed.

NCCL's are files (``_dump_3``) or what :func:`torch._C._distributed_c10d._dump_fr_trace` gives;
gloo's the latter. Both are pickles, or JSON. On gloo the state of an entry stays "scheduled": what
has completed is told by ``retired`` and by the status of its group.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from collectors.errors import DataError
from collectors.samplers.flight_document import (
    integer,
    items,
    mapping,
    number_or_none,
    ranks_of,
    text,
)
from collectors.samplers.restricted_pickle import MOST_BYTES, plain_value, read_bounded
from collectors.samplers.thread_stack import StackFrame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_VERSION = re.compile(r"2\.\d+")
_MOST_MEMBERS = 8 << 20  # characters of their lists, all groups together
_MOST_ENTRIES = 50_000  # torch keeps 2000, or as many as its user asks for
_MOST_PARTS = 2_000_000  # of all entries together: a small file can refer to one a million times


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightGroup:
    """A process group, as one rank knows it.

    Attributes:
        name: torch's, a number in the order in which groups were made; "" for gloo's default.
        description: such as "default_pg"; "" where nobody gave one.
        ranks: its members; () where the dump does not say, as on gloo once there are subgroups.
    """

    name: str
    description: str
    ranks: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightStatus:
    """How far a rank is in a group, as sequence numbers; None: none yet, or not tracked."""

    enqueued: int | None
    started: int | None
    completed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FlightRecord:
    """An operation that a rank enqueued.

    Attributes:
        group_id: of the group in this process; the key of :attr:`FlightDump.statuses`.
        group, description: the group's name and description.
        sequence: among the group's collectives; ``p2p_sequence`` among its sends and receives.
        operation: such as "all_reduce"; ``backend``: "nccl" or "gloo".
        input_sizes, output_sizes: of each tensor; ``input_types``: their dtypes.
        state: "scheduled", "started" or "completed".
        retired: whether the watchdog has seen it through.
        created_ns, started_ns, completed_ns: nanoseconds since the epoch; None: not seen.
        timeout_s: after which its backend gives up.
        frames: who called it, the innermost first.
    """

    record_id: int
    group_id: int
    group: str
    description: str
    sequence: int
    p2p_sequence: int
    is_p2p: bool
    op_id: int
    operation: str
    backend: str
    input_sizes: tuple[tuple[int, ...], ...]
    input_types: tuple[str, ...]
    output_sizes: tuple[tuple[int, ...], ...]
    state: str
    retired: bool
    created_ns: int
    started_ns: int | None
    completed_ns: int | None
    timeout_s: float | None
    frames: tuple[StackFrame, ...]


@dataclass(frozen=True, kw_only=True)
class FlightDump:
    """What one rank's flight recorder held.

    Attributes:
        rank: None: nobody said.
        groups: by name; ``statuses``: by the group's number in this process.
        records: what is left in its ring, the oldest first.
    """

    rank: int | None
    version: str
    groups: Mapping[str, FlightGroup]
    statuses: Mapping[int, FlightStatus]
    records: tuple[FlightRecord, ...]


def read_flight_dump(
    path: Path, rank: int | None = None, *, most_bytes: int = MOST_BYTES
) -> FlightDump:
    """The dump in a file; without ``rank``, that of the number its name ends in.

    Raises:
        DataError: no dump, damaged, of an unknown version, or with more than plain values in it
            (nothing of it is run).
        StorageError: it cannot be read.
    """
    if rank is None:
        named = re.search(r"(\d+)(\.\w+)?$", path.name)
        rank = int(named[1]) if named else None
    return parse_flight_dump(read_bounded(path, most_bytes=most_bytes), rank, where=str(path))


def parse_flight_dump(data: bytes, rank: int | None = None, *, where: str = "") -> FlightDump:
    """The dump in these bytes, a pickle or JSON.

    Raises:
        DataError: as :func:`read_flight_dump`.
    """
    document = mapping(_document(data, where))
    version = text(document.get("version"))
    if not _VERSION.fullmatch(version):
        told = f"of version {version!r}" if version else "no flight-recorder dump"
        raise DataError(f"{told}: this opsuite reads 2.x", where=where)
    entries = items(document.get("entries"))
    if len(entries) > _MOST_ENTRIES:
        raise DataError(f"more than {_MOST_ENTRIES} entries", where=where)
    parts = _Parts(where)
    members = [mapping(told).get("ranks") for told in mapping(document.get("pg_config")).values()]
    if sum(len(text(each)) for each in members) > _MOST_MEMBERS:
        raise DataError("groups of more members than any job has", where=where)
    statuses = mapping(document.get("pg_status")).items()
    return FlightDump(
        rank=rank,
        version=version,
        groups={
            text(name): _group(text(name), mapping(told))
            for name, told in mapping(document.get("pg_config")).items()
        },
        statuses={integer(name, -1): _status(mapping(told)) for name, told in statuses},
        records=tuple(_record(mapping(entry), parts) for entry in entries),
    )


def _document(data: bytes, where: str) -> object:
    if data.lstrip()[:1] != b"{":
        return plain_value(data, where=where)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise DataError("damaged JSON, or cut off", where=where) from None


def _group(name: str, told: Mapping[Any, Any]) -> FlightGroup:
    return FlightGroup(
        name=name,
        description=_described(told.get("desc")),
        ranks=ranks_of(told.get("ranks")),
    )


def _described(value: object) -> str:
    described = text(value)
    return "" if described == "undefined" else described


def _status(told: Mapping[Any, Any]) -> FlightStatus:
    def last(what: str) -> int | None:
        number = integer(told.get(f"last_{what}_collective"), -1)
        return number if number >= 0 else None

    return FlightStatus(
        enqueued=last("enqueued"), started=last("started"), completed=last("completed")
    )


def _record(entry: Mapping[Any, Any], parts: _Parts) -> FlightRecord:
    name, description = [*items(entry.get("process_group")), "", ""][:2]
    backend, _, operation = text(entry.get("profiling_name")).rpartition(":")
    timeout_ms = number_or_none(entry.get("timeout_ms"))
    return FlightRecord(
        record_id=integer(entry.get("record_id"), -1),
        group_id=integer(entry.get("pg_id"), -1),
        group=text(name),
        description=_described(description),
        sequence=integer(entry.get("collective_seq_id"), -1),
        p2p_sequence=integer(entry.get("p2p_seq_id"), -1),
        is_p2p=entry.get("is_p2p") is True,
        op_id=integer(entry.get("op_id"), -1),
        operation=operation.lstrip("_"),
        backend=backend,
        input_sizes=parts.sizes(entry.get("input_sizes")),
        input_types=tuple(map(text, parts.items(entry.get("input_dtypes")))),
        output_sizes=parts.sizes(entry.get("output_sizes")),
        state=text(entry.get("state")),
        retired=entry.get("retired") is True,
        created_ns=integer(entry.get("time_created_ns"), 0),
        started_ns=integer(entry.get("time_discovered_started_ns"), 0) or None,
        completed_ns=integer(entry.get("time_discovered_completed_ns"), 0) or None,
        timeout_s=None if timeout_ms is None else timeout_ms / 1e3,
        frames=parts.frames(entry.get("frames")),
    )


class _Parts:
    """Lists in entries. Torch writes a frame only once, and refers to it from then on."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._left = _MOST_PARTS
        self._frames: dict[int, StackFrame] = {}  # by identity: the document keeps them alive

    def items(self, value: object) -> Sequence[Any]:
        """The items of a list, as long as there are not too many in all."""
        found = items(value)
        self._left -= len(found)
        if self._left < 0:
            raise DataError(f"more than {_MOST_PARTS} sizes and frames", where=self._where)
        return found

    def sizes(self, value: object) -> tuple[tuple[int, ...], ...]:
        """Sizes of tensors."""
        return tuple(
            tuple(integer(one, -1) for one in self.items(sizes)) for sizes in self.items(value)
        )

    def frames(self, value: object) -> tuple[StackFrame, ...]:
        """The frames of one entry."""
        return tuple(self._frames.get(id(one)) or self._frame(one) for one in self.items(value))

    def _frame(self, value: object) -> StackFrame:
        told = mapping(value)
        path = text(told.get("filename"))
        frame = self._frames[id(value)] = StackFrame(
            function=text(told.get("name")),
            path=path,
            file=path.rpartition("/")[2],
            line=integer(told.get("line"), 0),
        )
        return frame
