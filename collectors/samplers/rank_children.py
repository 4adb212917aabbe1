"""The Python processes that a rank has started: workers of its data loader, of its compiler."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import psutil

COMPILE_WORKER = "compile worker"
CHILD = "child"
_MOST = 8
_RANKS = ("RANK", "LOCAL_RANK")
_SERVANTS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
_COMPILERS = "_inductor/compile_worker"


@dataclass(frozen=True, kw_only=True)
class RankChild:
    """A process that a rank has started, or a child of it has.

    Attributes:
        kind: what it is, as far as its command line says.
    """

    pid: int
    rank_pid: int
    kind: str


def children_of(rank_pids: Collection[int], *, most: int = _MOST) -> list[RankChild]:
    """The Python children of each of these processes, ``most`` a rank, the oldest first.

    A launcher's ranks are no children: they have an environment that names another rank. Neither
    are the processes that :mod:`multiprocessing` starts to help itself.
    """
    import psutil

    below: dict[int, list[psutil.Process]] = defaultdict(list)
    for process in psutil.process_iter(["ppid"]):
        below[process.info["ppid"]].append(process)
    found: list[RankChild] = []
    for rank_pid in rank_pids:
        mine = _walk(rank_pid, set(rank_pids), below)
        mine.sort(key=lambda child: (child.kind == COMPILE_WORKER, child.pid))
        found += mine[:most]
    return found


def _walk(
    rank_pid: int, ranks: set[int], below: Mapping[int, list[psutil.Process]]
) -> list[RankChild]:
    rank = _named_rank(rank_pid)
    found, ahead, seen = [], list(below.get(rank_pid, ())), {rank_pid}
    while ahead:
        process = ahead.pop()
        if process.pid in seen or process.pid in ranks or _named_rank(process.pid) != rank:
            continue
        seen.add(process.pid)
        ahead += below.get(process.pid, ())
        kind = _kind(process)
        if kind is not None:
            found.append(RankChild(pid=process.pid, rank_pid=rank_pid, kind=kind))
    return found


def _named_rank(pid: int) -> tuple[str | None, ...] | None:
    """What the environment of a process says that its rank is; None: it cannot be read."""
    import psutil

    try:
        environ = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return None
    return tuple(environ.get(name) for name in _RANKS)


def _kind(process: psutil.Process) -> str | None:
    """What a process is; None: no Python of interest, or gone."""
    import psutil

    try:
        command = process.cmdline()
        name = Path(process.exe() or command[0]).name
    except (psutil.Error, OSError, IndexError):
        return None
    told = " ".join(command)
    if not name.startswith("python") or any(servant in told for servant in _SERVANTS):
        return None
    return COMPILE_WORKER if _COMPILERS in told else CHILD
