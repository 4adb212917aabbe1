"""Which processes are the ranks of a job: from the tree of processes and their environments."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.errors import Unreachable, UsageError
from opsuite.attaching.programs import is_opsuites, require_one_program

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from opsuite.attaching.process import Process

# Who starts ranks says so in one of these: torchrun and its like, then Slurm, Open MPI, MPICH.
_RANK_NAMES = (
    ("RANK", "WORLD_SIZE"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
)
_LOADER, _AGENT = "pt_data_worker", "pt_elastic"
_SPAWNED = "spawn_main("
_KEEPERS = ("resource_tracker", "semaphore_tracker", "forkserver", "compile_worker")
_GONE = ("zombie", "dead")
_STARTERS = (
    "torchrun",
    "torch.distributed.run",
    "torch.distributed.launch",
    "accelerate",
    "deepspeed",
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A rank and its process; ``world_size`` as its environment says, None where it does not."""

    rank: int
    process: Process
    world_size: int | None = None

    @property
    def pid(self) -> int:
        """Number of its process."""
        return self.process.pid


@dataclass(frozen=True, kw_only=True)
class Targets:
    """The ranks that were found.

    Attributes:
        ranks: in their order.
        world_size: of the job; at least as many as were found.
        missing: ranks that this host should have, and that are not there.
        refused: why a process that was given leads to no rank, by its number.
        notes: how ranks were told, where that is not plain.
    """

    ranks: tuple[Target, ...]
    world_size: int
    missing: tuple[int, ...] = ()
    refused: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_targets(
    given: Sequence[int],
    processes: Mapping[int, Process],
    *,
    is_hidden: Callable[[int], bool],
    waits_for_children: Callable[[int], bool],
    has_torch: Callable[[int], bool | None],
    ours: Collection[int] = (),
) -> Targets:
    """The ranks among the ``given`` processes and their descendants.

    Opsuite's own processes are none, and neither are ``ours``: this one and those above it. Of what
    only descends from a process that was given, without a number of its own, a rank has torch.

    Args:
        processes: the given ones and all their descendants (:func:`.process.look_up`).
        is_hidden: whether a number that is not in ``processes`` is in use nevertheless.
        waits_for_children: whether the stack of a process shows that it only started others.
        has_torch: whether a process has loaded it; None: that may not be seen.

    Raises:
        Unreachable: there is no rank; each number is told with its reason.
        UsageError: they are of several jobs, or of programs that have nothing in common.
    """
    given = list(dict.fromkeys(given))
    refused = {pid: reason for pid in given if (reason := _refusal(pid, processes, is_hidden))}
    tree = _Tree(processes)
    kept = [pid for pid in given if pid not in refused]
    pythons = [
        p
        for p in tree.below(kept)
        if p.python and p.state not in _GONE and p.pid not in ours and not is_opsuites(p)
    ]
    ranks, notes = _by_environment(tree, pythons)
    if not ranks:
        likely = [p for p in pythons if p.pid in kept or has_torch(p.pid) is not False]
        ranks, notes = _by_order(tree, kept, likely, waits_for_children)
    if not ranks and kept:
        raise Unreachable(
            "none of these processes, and nothing below them, looks like a rank",
            where=", ".join(f"process {pid}" for pid in kept),
            remedy="give the numbers of the ranks' processes, or of the torchrun above them",
        )
    if not ranks:
        raise Unreachable(
            "there is no rank to look at",
            where="; ".join(f"{pid}: {reason}" for pid, reason in refused.items()),
            remedy="give the numbers of the ranks' processes, or of the torchrun above them",
        )
    _require_one_job(ranks)
    sizes = [target.world_size or 0 for target in ranks]
    return Targets(
        ranks=tuple(ranks),
        world_size=max(*sizes, ranks[-1].rank + 1, len(ranks)),
        missing=_missing(ranks) if set(kept) & _starters(tree, ranks) else (),
        refused=refused,
        notes=tuple(notes),
    )


class _Tree:
    """Who descends from whom."""

    def __init__(self, processes: Mapping[int, Process]) -> None:
        self.processes = processes
        self._children: dict[int, list[Process]] = {}
        for process in sorted(processes.values(), key=lambda p: (p.born_s, p.pid)):
            self._children.setdefault(process.parent, []).append(process)

    def below(self, pids: Sequence[int]) -> list[Process]:
        """These and all that descend from them, parents first, each once."""
        found: dict[int, Process] = {}
        waiting = list(reversed(pids))
        while waiting:
            pid = waiting.pop()
            if pid in found or pid not in self.processes:
                continue
            found[pid] = self.processes[pid]
            waiting += [child.pid for child in reversed(self.children(pid))]
        return list(found.values())

    def children(self, pid: int) -> list[Process]:
        """Its children, the oldest first."""
        return [child for child in self._children.get(pid, []) if child.pid != pid]

    def above(self, process: Process) -> Iterator[Process]:
        """Its ancestors, as far as they are known."""
        seen = {process.pid}
        while (parent := self.processes.get(process.parent)) and parent.pid not in seen:
            seen.add(parent.pid)
            yield parent
            process = parent


def _refusal(pid: int, processes: Mapping[int, Process], is_hidden: Callable[[int], bool]) -> str:
    """Why nothing can come of a number that was given; "": something may."""
    process = processes.get(pid)
    if process is None and is_hidden(pid):
        return "of another user, and /proc is mounted with hidepid: ask as that user, or as root"
    if process is None:
        return "there is no such process"
    if process.state in _GONE:
        return "it has ended (a zombie that its parent has not waited for)"
    below = _Tree(processes).below([pid])
    if not any(each.python for each in below):
        what = f" ({process.name})" if process.name else ""
        return f"neither it{what} nor what it started is a Python process"
    return ""


def _by_environment(tree: _Tree, pythons: list[Process]) -> tuple[list[Target], list[str]]:
    """The ranks by what whoever started them told them."""
    for rank_name, size_name in _RANK_NAMES:
        numbered = {
            process.pid: rank
            for process in pythons
            if (rank := _number(process, rank_name)) is not None
        }
        ranks = [
            Target(
                rank=numbered[process.pid],
                process=process,
                world_size=_number(process, size_name) or None,
            )
            for process in pythons
            if process.pid in numbered
            and not _starts_ranks(tree, process, rank_name)
            and not _is_worker(tree, process, rank_name)
        ]
        if ranks:
            return sorted(ranks, key=lambda target: target.rank), []
    return [], []


def _starts_ranks(tree: _Tree, process: Process, name: str) -> bool:
    """Whether it only starts ranks: a rank's descendants are of its own rank, and no other."""
    below = [p for p in tree.below([process.pid]) if p.pid != process.pid]
    others = {rank for p in below if (rank := _number(p, name)) is not None}
    placed = any(_number(p, "LOCAL_RANK") is not None for p in below)
    return bool(others - {_number(process, name)}) or (
        placed and _number(process, "LOCAL_RANK") is None
    )


def _is_worker(tree: _Tree, process: Process, name: str) -> bool:
    """Whether a rank started it: its own parent, or one above, is of the same rank."""
    return any(
        above.python
        and _number(above, name) == _number(process, name)
        and not _starts_ranks(tree, above, name)
        for above in tree.above(process)
    )


def _by_order(
    tree: _Tree,
    given: list[int],
    pythons: list[Process],
    waits_for_children: Callable[[int], bool],
) -> tuple[list[Target], list[str]]:
    """The ranks where no environment tells them: as they were given, or as they began."""
    tops = [p for p in pythons if not any(above in pythons for above in tree.above(p))]
    require_one_program([p for p in tops if p.pid not in given])
    chosen = sorted(tops, key=lambda p: _place(tree, p, given))
    children = [c for c in tree.children(chosen[0].pid) if _may_be_rank(c)] if chosen else []
    started = children and (_is_starter(chosen[0]) or waits_for_children(chosen[0].pid))
    if len(chosen) == 1 and started:
        chosen = children
        note = "no RANK in their environment: numbered in the order in which they were spawned"
    else:
        note = "no RANK in their environment: numbered in the order in which they were given"
    ranks = [Target(rank=index, process=process) for index, process in enumerate(chosen)]
    return ranks, [note] if len(ranks) > 1 else []


def _place(tree: _Tree, process: Process, given: list[int]) -> tuple[int, float, int]:
    line = [process.pid, *(above.pid for above in tree.above(process))]
    places = [given.index(pid) for pid in line if pid in given]
    return (min(places, default=len(given)), process.born_s, process.pid)


def _may_be_rank(child: Process) -> bool:
    helps = any(word in argument for argument in child.command for word in _KEEPERS)
    helps = helps and not any(_SPAWNED in argument for argument in child.command)
    return child.python and not helps and child.name != _LOADER and child.state not in _GONE


def _is_starter(process: Process) -> bool:
    """Whether it is torchrun or its like, which compute nothing themselves."""
    told = {Path(argument).name for argument in process.command[:4]}
    return process.name == _AGENT or not told.isdisjoint(_STARTERS)


def _require_one_job(ranks: list[Target]) -> None:
    by_rank: dict[int, list[int]] = {}
    for target in ranks:
        by_rank.setdefault(target.rank, []).append(target.pid)
    twice = {rank: pids for rank, pids in by_rank.items() if len(pids) > 1}
    if twice:
        rank, pids = next(iter(twice.items()))
        raise UsageError(
            f"these are processes of {len(pids)} jobs: rank {rank} is there {len(pids)} times",
            where=", ".join(f"process {pid}" for pid in pids),
            remedy="give the processes of one job, or the torchrun that started it",
        )


def _starters(tree: _Tree, ranks: list[Target]) -> set[int]:
    """Processes above all the ranks: who gives one of them, means the whole job of this host."""
    lines = [{above.pid for above in tree.above(target.process)} for target in ranks]
    return set.intersection(*lines)


def _missing(ranks: list[Target]) -> tuple[int, ...]:
    """Ranks that torchrun started on this host by its own account, and that are not there."""
    due: set[int] = set()
    for target in ranks:
        local = _number(target.process, "LOCAL_RANK")
        size = _number(target.process, "LOCAL_WORLD_SIZE")
        if local is None or size is None or local >= size:
            return ()
        due |= set(range(target.rank - local, target.rank - local + size))
    return tuple(sorted(due - {target.rank for target in ranks}))


def _number(process: Process, name: str) -> int | None:
    text = (process.environ or {}).get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
