"""Where a rank is in each of its process groups, by its flight recorder."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.membership import group_name
from collectors.samplers.user_code import users_frame

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.samplers.flight_recorder import FlightDump, FlightGroup, FlightRecord

_DEFAULT = "default_pg"
_MOST_SIZES = 4


@dataclass(frozen=True, kw_only=True)
class FlightEntry:
    """The last collective that a rank enqueued in a group.

    Attributes:
        group: description and members, such as ``default_pg[0-3]``; or what is known of these.
        ranks: its members; () unknown.
        sequence: of the last one enqueued; ``completed``: of the last one completed, -1: none.
        operation: such as "all_reduce", "" where the dump has no entry of it.
        sizes: of its inputs, as text; ``dtype``: of the first of them.
        where: the user's line that called it, such as ``train.py:41``; "" unknown.
    """

    rank: int
    group: str
    ranks: tuple[int, ...]
    sequence: int
    completed: int
    operation: str
    sizes: str
    dtype: str
    where: str


def last_entries(dump: FlightDump, *, world_size: int = 0) -> tuple[FlightEntry, ...]:
    """One entry for each group in which the rank has enqueued anything.

    Args:
        world_size: of the run; gives the members of the default group where the dump does not.
    """
    records: dict[int, list[FlightRecord]] = defaultdict(list)
    for record in dump.records:
        records[record.group_id].append(record)
    groups = _groups(dump, records)
    entries = []
    for number in sorted({*records, *dump.statuses}):
        group = groups.get(number)
        entry = _entry(dump, number, records[number], group, world_size)
        if entry is not None:
            entries.append(entry)
    return tuple(entries)


def _entry(
    dump: FlightDump,
    number: int,
    records: Sequence[FlightRecord],
    group: FlightGroup | None,
    world_size: int,
) -> FlightEntry | None:
    status = dump.statuses.get(number)
    enqueued = None if status is None else status.enqueued
    completed = None if status is None else status.completed
    if enqueued is None:
        enqueued = max((_sequence(record) for record in records), default=None)
    if enqueued is None:
        return None
    if completed is None:
        completed = max((_sequence(one) for one in records if _is_done(one)), default=-1)
    last = next((one for one in reversed(records) if _sequence(one) == enqueued), None)
    ranks = _ranks(dump, records, group, world_size)
    return FlightEntry(
        rank=-1 if dump.rank is None else dump.rank,
        group=_named(number, records, group, ranks),
        ranks=ranks,
        sequence=enqueued,
        completed=completed,
        operation=last.operation if last else "",
        sizes=_sizes(last.input_sizes) if last else "",
        dtype=next(iter(last.input_types), "") if last else "",
        where=_where(last),
    )


def _sequence(record: FlightRecord) -> int:
    """The number that the status of its group counts it by."""
    return record.p2p_sequence if record.is_p2p else record.sequence


def _is_done(record: FlightRecord) -> bool:
    return record.retired or record.state == "completed"


def _groups(
    dump: FlightDump, records: Mapping[int, Sequence[FlightRecord]]
) -> dict[int, FlightGroup]:
    """Groups by their number in this process, which a dump tells only of those with entries.

    Names and numbers both count groups in the order in which they were made: where there are as
    many of both, and no entry speaks against it, the others follow.
    """
    told = {number: found[-1].group for number, found in records.items()}
    names = [name for name in dump.groups if name.isdigit()]
    if len(names) == len(dump.statuses):
        paired = dict(zip(sorted(dump.statuses), sorted(names, key=int), strict=True))
        if all(paired.get(number) == name for number, name in told.items()):
            told = paired
    return {number: dump.groups[name] for number, name in told.items() if name in dump.groups}


def _ranks(
    dump: FlightDump,
    records: Sequence[FlightRecord],
    group: FlightGroup | None,
    world_size: int,
) -> tuple[int, ...]:
    if group is not None and group.ranks:
        return group.ranks
    if not any(record.description == _DEFAULT for record in records):
        return ()
    unnamed = dump.groups.get("")  # gloo's only one; it lists nobody once there are subgroups
    return (unnamed.ranks if unnamed else ()) or tuple(range(world_size))


def _named(
    number: int,
    records: Sequence[FlightRecord],
    group: FlightGroup | None,
    ranks: Sequence[int],
) -> str:
    name, description = "", ""
    if group is not None:
        name, description = group.name, group.description
    elif records:
        name, description = records[-1].group, records[-1].description
    told = description or (f"group {name}" if name else f"group number {number}")
    return group_name(told, ranks) if ranks else told


def _sizes(sizes: Sequence[Sequence[int]]) -> str:
    told = [str(list(one)) for one in sizes[:_MOST_SIZES]]
    if len(sizes) > _MOST_SIZES:
        told.append(f"and {len(sizes) - _MOST_SIZES} more")
    return ", ".join(told)


def _where(record: FlightRecord | None) -> str:
    frame = users_frame(record.frames) if record else None
    return f"{frame.file}:{frame.line}" if frame else ""
