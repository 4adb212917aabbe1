"""What an executor sees of its host's ranks: boards, /proc, logs, the network's counters."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from collectors.board import SUFFIX, Activity
from collectors.board_reader import BoardReader
from collectors.clock import now_ns
from collectors.errors import DataError
from engine.resilience.messages import RankState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from collectors.board import BoardState

_PROC = Path("/proc")
_BUSY = {
    Activity.CHECKPOINT: "checkpoint",
    Activity.COMPILE: "compile",
    Activity.EVALUATION: "evaluation",
    Activity.DECLARED: "evaluation",
}
_MOST_LOG_BYTES = 1 << 16  # read at a time
_MOST_LINES = 20


class HostView:
    """Looks at the ranks of one attempt.

    Args:
        boards: directory of the run's.
        pids: of the ranks.
    """

    def __init__(self, boards: Path, pids: Mapping[int, int]) -> None:
        self._directory = boards
        self._pids = pids
        self._boards: dict[int, BoardReader] = {}

    def look(self) -> tuple[RankState, ...]:
        """All of them, as they are now."""
        self._find()
        return tuple(self._state(rank, pid) for rank, pid in sorted(self._pids.items()))

    def close(self) -> None:
        """Look no more."""
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def _find(self) -> None:
        for rank, pid in self._pids.items():
            if rank in self._boards:
                continue
            for path in self._directory.glob(f"rank{rank}-{pid}-*{SUFFIX}"):
                try:
                    self._boards[rank] = BoardReader(path)
                except (DataError, OSError):
                    continue  # just begun

    def _state(self, rank: int, pid: int) -> RankState:
        process = _process_state(pid)
        board = self._boards.get(rank)
        if board is None:
            return RankState(rank=rank, process=process)
        seen = board.read()
        return RankState(
            rank=rank,
            step=seen.step,
            silent_s=max(0.0, (now_ns() - seen.ticked_ns) / 1e9),
            waits_in=_waits_in(seen),
            process=process,
            busy=_BUSY.get(seen.activity, ""),
        )


def _waits_in(seen: BoardState) -> str:
    found = seen.collective
    return "" if found is None else f"{found.group} {found.name} {found.sequence}"


def _process_state(pid: int) -> str:
    """As ps tells it; a stopped thread counts for the process."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    return text.rpartition(") ")[2][:1]


class LogLines:
    """New lines of log files that have one of some words."""

    def __init__(self, paths: Iterable[Path], words: Sequence[str]) -> None:
        self._words = tuple(word.lower() for word in words)
        self._read = {path: _size(path) for path in paths}

    def new(self) -> tuple[str, ...]:
        """Since the last call; of a flood, the last part."""
        found: list[str] = []
        for path, done in self._read.items():
            size = _size(path)
            if size <= done:
                continue
            begin = max(done, size - _MOST_LOG_BYTES)
            self._read[path] = size
            try:
                with path.open("rb") as file:
                    file.seek(begin)
                    text = file.read(size - begin).decode("utf-8", "replace")
            except OSError:
                continue
            lines = text.splitlines()
            found += [line for line in lines if any(word in line.lower() for word in self._words)]
        return tuple(line[:500] for line in found[-_MOST_LINES:])


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def sent_bytes(interface: str) -> int | None:
    """Bytes that an interface of this host has sent; None: nobody counts, or there is none."""
    try:
        lines = (_PROC / "net" / "dev").read_text("utf-8").splitlines()[2:]
    except OSError:
        return None
    counts = (line.rpartition(":") for line in lines)
    return next((int(c.split()[8]) for name, _, c in counts if name.strip() == interface), None)


def interface_of(address: str) -> str:
    """The network interface that has an address; "" where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    return ""


def killed_for_memory(pids: Iterable[int]) -> bool:
    """Whether the kernel says that it has killed one of these processes for want of memory; False
    also where its log is not for us to read."""
    wanted = {f"Killed process {pid} " for pid in pids}
    return any(any(each in line for each in wanted) for line in _kernel_log())


def _kernel_log() -> Iterator[str]:
    try:
        descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        while True:
            try:
                yield os.read(descriptor, 8192).decode("utf-8", "replace")
            except BrokenPipeError:
                continue  # overwritten while it was read: the next one is there
            except OSError:
                return
    finally:
        os.close(descriptor)
