"""The ranks of a run on this host, as their boards and /proc show them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.board import SUFFIX
from collectors.board_reader import BoardReader
from collectors.clock import host_name, process_lives_since, process_space
from collectors.errors import DataError
from playbooks.hang.observation import Observation

if TYPE_CHECKING:
    from collectors.board import BoardFacts

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_MOST_CHILDREN = 64  # of one rank: what more there are are not read every second


@dataclass(frozen=True, kw_only=True)
class LocalRank:
    """A rank with the board that it writes now."""

    board: BoardReader

    @property
    def facts(self) -> BoardFacts:
        """Who it is."""
        return self.board.facts


class LocalRanks:
    """Looks at boards again and again; of a rank that was started anew only the last counts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._boards: dict[str, BoardReader] = {}
        self._modified_ns = -1
        self.ranks: dict[int, LocalRank] = {}

    def look(self) -> list[Observation]:
        """All ranks as they are now, ascending."""
        self._find()
        return [_observed(self.ranks[rank]) for rank in sorted(self.ranks)]

    def _find(self) -> None:
        try:
            modified_ns = self._directory.stat().st_mtime_ns
        except OSError:
            return  # none has begun
        if modified_ns == self._modified_ns:
            return
        whole = True
        for path in self._directory.glob(f"*{SUFFIX}"):
            if path.name not in self._boards:
                whole &= self._open(path)
        if whole:
            self._modified_ns = modified_ns
        chosen: dict[int, LocalRank] = {}
        for board in sorted(self._boards.values(), key=lambda each: each.facts.since_ns):
            if board.facts.host == host_name() and board.facts.space == process_space():
                chosen[board.facts.rank] = LocalRank(board=board)
        self.ranks = chosen

    def _open(self, path: Path) -> bool:
        """Whether there is no need to look at that file again."""
        try:
            self._boards[path.name] = BoardReader(path)
        except (DataError, OSError):
            return False  # just begun
        return True


def _observed(rank: LocalRank) -> Observation:
    facts = rank.facts
    alive = process_lives_since(facts.pid, facts.since_ns)
    state, cpu_s, io_bytes = _usage(facts.pid) if alive else ("", None, None)
    return Observation(
        rank=facts.rank,
        host=facts.host,
        pid=facts.pid,
        board=rank.board.read(),
        alive=alive,
        stopped=state in ("T", "t"),
        cpu_s=cpu_s,
        io_bytes=io_bytes,
    )


def _usage(pid: int) -> tuple[str, float | None, int | None]:
    """Its state, and what it and its children have used so far."""
    state, cpu_s = _state(pid)
    io_bytes = _io(pid)
    for child in _below(pid):
        _, child_cpu_s = _state(child)
        child_io = _io(child)
        cpu_s = None if cpu_s is None else cpu_s + (child_cpu_s or 0.0)
        io_bytes = None if io_bytes is None else io_bytes + (child_io or 0)
    return state, cpu_s, io_bytes


def _state(pid: int) -> tuple[str, float | None]:
    """The state as ps tells it, and processor seconds, of children that have ended too."""
    text = _read(f"{pid}/stat")
    fields = text.rpartition(") ")[2].split()
    if len(fields) < 15:
        return "", None
    return fields[0], sum(int(ticks) for ticks in fields[11:15]) / _TICKS_A_SECOND


def _io(pid: int) -> int | None:
    lines = _read(f"{pid}/io").splitlines()[:2]
    return sum(int(line.rpartition(":")[2]) for line in lines) if len(lines) == 2 else None


def _below(pid: int) -> list[int]:
    """Its children and theirs, as far as its main threads started them."""
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < _MOST_CHILDREN:
        parent = waiting.pop()
        children = [int(word) for word in _read(f"{parent}/task/{parent}/children").split()]
        found += children
        waiting += children
    return found


def _read(name: str) -> str:
    """A file of /proc; "" where it is not there, or not for us."""
    try:
        return (_PROC / name).read_text("utf-8", "replace")
    except OSError:
        return ""
