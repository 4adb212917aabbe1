"""What is asked of the ranks at an alarm: their stacks, and what was issued on their devices."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import OpsuiteError
from collectors.samplers.call_roots import roots_of
from collectors.samplers.flight_recorder import read_flight_dump
from collectors.samplers.last_collectives import last_entries
from collectors.samplers.ras import read_ras
from collectors.samplers.sampler import Absent
from collectors.samplers.stacks import read_stacks
from playbooks.hang.observation import Frame, RankStack
from playbooks.hang.sources import with_sources

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collectors.samplers.last_collectives import FlightEntry
    from collectors.samplers.thread_stack import ProcessStacks, ThreadStack
    from opsuite.watchdog.ranks import LocalRank
    from playbooks.hang.observation import Observation

_STACKS_S = 4.0
_ROOTS_S = 2.0
_FLIGHTS_S = 2.0
_RAS_S = 2.0
_POLL_S = 0.05
_MOST_DUMP_BYTES = 64 << 20
_NVIDIA = Path("/dev/nvidiactl")
_COMPILERS = ("cc1plus", "g++", "c++", "gcc", "clang", "nvcc", "ptxas", "cicc", "ninja", "ld")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was found out.

    Attributes:
        processes: the stacks as they were read, for the record; ``ranks``: whose, by process id.
        stacks: the same for the judge.
        ras: NCCL's own report; "": none.
        notes: what could not be found out, and what helps.
    """

    processes: tuple[ProcessStacks, ...]
    ranks: Mapping[int, int]
    stacks: tuple[RankStack, ...]
    flights: tuple[FlightEntry, ...] = ()
    ras: str = ""
    notes: tuple[str, ...] = ()


def gather(
    ranks: Mapping[int, LocalRank], observations: Sequence[Observation], *, flights: bool = True
) -> Evidence:
    """Ask all ranks that are here; takes some seconds at most.

    Args:
        flights: also ask for what flight recorders and NCCL know.
    """
    here = {each.rank: ranks[each.rank] for each in observations if each.here}
    able = [rank for rank in here if not _seen(observations, rank).stopped]
    asked = {rank: here[rank].board.ask() for rank in able if flights and _has_recorder(here[rank])}
    by_pid = {rank.facts.pid: number for number, rank in here.items()}
    boards = {rank.facts.pid: rank.facts for rank in here.values()}
    processes = tuple(read_stacks(list(by_pid), boards=boards, within_s=_STACKS_S))
    roots = roots_of(processes, within_s=_ROOTS_S) if flights else {}
    read = [each for each in processes if each.threads]
    stacks = [_stack(by_pid[each.rank_pid], each, roots.get(each.pid, "")) for each in read]
    stacks += _compilers(by_pid)
    entries, notes = _flights(here, asked)
    notes += [each.error for each in processes if each.error and not each.child]
    return Evidence(
        processes=processes,
        ranks=by_pid,
        stacks=with_sources(stacks),
        flights=tuple(entries),
        ras=_ras(boards) if flights else "",
        notes=tuple(dict.fromkeys(notes)),
    )


def _seen(observations: Sequence[Observation], rank: int) -> Observation:
    return next(each for each in observations if each.rank == rank)


def _has_recorder(rank: LocalRank) -> bool:
    return bool(rank.facts.flight_file)


def _stack(rank: int, process: ProcessStacks, root: str) -> RankStack:
    main = process.main
    assert main is not None, process.pid
    child = f"{process.child} {process.pid}" if process.child else ""
    return RankStack(
        rank=rank,
        frames=_frames(main),
        active=main.active,
        child=child,
        others=tuple(_frames(thread) for thread in process.threads if thread is not main),
        root=root,
    )


def _frames(thread: ThreadStack) -> tuple[Frame, ...]:
    return tuple(
        Frame(function=frame.function, file=frame.path, line=frame.line) for frame in thread.frames
    )


def _compilers(by_pid: Mapping[int, int]) -> list[RankStack]:
    """Compilers that run below a rank, as children without a stack."""
    import psutil

    found = []
    for pid, rank in by_pid.items():
        try:
            names = {child.name() for child in psutil.Process(pid).children(recursive=True)}
        except psutil.Error:
            continue  # it ends just now
        found += [RankStack(rank=rank, frames=(), child=name) for name in names & set(_COMPILERS)]
    return found


def _flights(
    here: Mapping[int, LocalRank], asked: Mapping[int, int]
) -> tuple[list[FlightEntry], list[str]]:
    deadline = time.monotonic() + _FLIGHTS_S
    entries: list[FlightEntry] = []
    notes: list[str] = []
    for rank, number in asked.items():
        board, facts = here[rank].board, here[rank].facts
        while board.read().answered < number and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if board.read().answered < number:
            continue  # it does not record, or holds its interpreter's lock: stacks must do
        try:
            path = Path(facts.flight_file)
            dump = read_flight_dump(path, rank, most_bytes=_MOST_DUMP_BYTES)
            entries += last_entries(dump, world_size=facts.world_size)
        except OpsuiteError as error:
            notes.append(f"the flight recorder of rank {rank} cannot be read: {error.what}")
    return entries, notes


def _ras(pids: Mapping[int, object]) -> str:
    if not _NVIDIA.exists():
        return ""
    try:
        return read_ras(_environment(next(iter(pids))), timeout_s=_RAS_S)
    except (Absent, OpsuiteError, StopIteration):
        return ""  # NCCL may be old or not there: everything else is asked as well


def _environment(pid: int) -> dict[str, str]:
    import psutil

    try:
        return dict(psutil.Process(pid).environ())
    except psutil.Error:
        return dict(os.environ)
