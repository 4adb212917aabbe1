"""Stacks that a process writes itself when a signal asks it: for where nobody may read it.

Python's faulthandler writes them from inside the signal's handler, so also while another thread
holds the interpreter's lock, or the process hangs in a library. It says less than py-spy: no names
of threads, no classes, and at most 100 threads of 100 frames.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
import re
import signal
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from collectors.clock import host_name, process_lives_since, process_space
from collectors.errors import StorageError, TimedOut, Unreachable
from collectors.samplers.thread_stack import StackFrame, ThreadStack

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collectors.board import BoardFacts

_TIMEOUT_S = 2.0
_SETTLED_S = 0.1
_POLL_S = 0.01
_MOST_BYTES = 4 << 20
_FIRST_SIGNAL = 6  # after SIGRTMIN: the first ones are what programs take that take any
_MAIN = "# main thread "
_HEADING = re.compile(r"(?:Current thread|Thread) 0x([0-9a-f]+)(?: \[(.*)\])? \(most recent call")
_FRAME = re.compile(r'  File "(.*)", line (\d+|\?\?\?) in (.*)')
_PROC = Path("/proc")

_installed: dict[int, int] = {}  # descriptors by signal


def install_fault_stacks(path: Path) -> int:
    """Have this process write its stacks into ``path`` at a signal, which is given back.

    0: this system has no signal for it. Children that are forked later answer it too, into the
    same file.

    Raises:
        StorageError: the file cannot be made.
    """
    number = _free_signal()
    if number == 0:
        return 0
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
        os.write(descriptor, f"{_MAIN}0x{threading.main_thread().ident or 0:016x}\n".encode())
    except OSError as error:
        raise StorageError.from_os_error(error, f"making {path}") from error
    faulthandler.register(number, file=descriptor, all_threads=True, chain=False)
    _installed[number] = descriptor
    return number


def remove_fault_stacks(number: int) -> None:
    """Undo it; the signal then ends the process again, so nobody sends it who sees that."""
    descriptor = _installed.pop(number, None)
    if descriptor is not None:
        faulthandler.unregister(number)
        os.close(descriptor)


def _free_signal() -> int:
    first = getattr(signal, "SIGRTMIN", None)
    if first is None:
        return 0  # not Linux
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    taken = _mask(os.getpid(), "SigCgt") | _mask(os.getpid(), "SigIgn")  # also by libraries
    for number in range(first + _FIRST_SIGNAL, signal.SIGRTMAX):
        if number not in blocked and not taken >> (number - 1) & 1:
            return number
    return 0


def read_fault_stacks(
    facts: BoardFacts, *, pid: int | None = None, timeout_s: float = _TIMEOUT_S
) -> tuple[ThreadStack, ...]:
    """Ask the process of a board for its stacks, or a forked child of it (``pid``).

    Raises:
        Unreachable: it cannot answer: it is stopped, ended, elsewhere, or was never set up for it.
        TimedOut: it did not answer.
    """
    asked = facts.pid if pid is None else pid
    if facts.host != host_name() or facts.space != process_space():
        raise Unreachable(f"process {asked} is not of this host and container")
    if not facts.stacks_signal or not process_lives_since(facts.pid, facts.since_ns):
        raise Unreachable(f"process {asked} cannot be asked for its stacks: it has ended")
    path = Path(facts.stacks_file)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise Unreachable(f"the stacks of process {asked} cannot be read: {error}") from error
    deadline = time.monotonic() + timeout_s
    try:
        _check_answers(asked, facts, descriptor)
        with _alone(descriptor, asked, deadline):
            text = _ask(asked, facts.stacks_signal, descriptor, deadline)
        head = os.pread(descriptor, 64, 0).decode("ascii", "replace")
    finally:
        os.close(descriptor)
    return parse_fault_stacks(text, main=_main_thread(head))


def _check_answers(pid: int, facts: BoardFacts, descriptor: int) -> None:
    """A signal that nobody waits for would end the process: look who it is before."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise Unreachable(f"where process {pid} would write its stacks is no file")
    state = _state(pid)
    if state in ("T", "t"):
        raise Unreachable(
            f"process {pid} is stopped and cannot write its stacks", remedy=f"kill -CONT {pid}"
        )
    catches = _mask(pid, "SigCgt") >> (facts.stacks_signal - 1) & 1
    if not catches or (pid != facts.pid and not _has_open(pid, facts.stacks_file)):
        raise Unreachable(f"process {pid} is not set up to write its stacks")


@contextlib.contextmanager
def _alone(descriptor: int, pid: int, deadline: float) -> Iterator[None]:
    """Two who ask at once would get each other's lines."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimedOut(f"process {pid} is being asked by somebody else") from None
            time.sleep(_POLL_S)
    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _ask(pid: int, number: int, descriptor: int, deadline: float) -> str:
    start = size = os.fstat(descriptor).st_size
    try:
        os.kill(pid, number)
    except OSError as error:
        raise Unreachable(f"process {pid} cannot be asked for its stacks: {error}") from error
    grown_at = time.monotonic()
    while time.monotonic() < deadline:
        time.sleep(_POLL_S)
        now = os.fstat(descriptor).st_size
        if now != size:
            size, grown_at = now, time.monotonic()
        elif size > start and time.monotonic() - grown_at > _SETTLED_S:
            break
    if size == start:
        raise TimedOut(
            f"process {pid} did not write its stacks (state {_state(pid) or 'gone'}: D is a wait "
            "in the kernel, T stopped)"
        )
    return os.pread(descriptor, min(size - start, _MOST_BYTES), start).decode("utf-8", "replace")


def parse_fault_stacks(text: str, *, main: int | None) -> tuple[ThreadStack, ...]:
    """The threads in faulthandler's text; without ``main`` the last, which is the oldest."""
    found: list[tuple[int, str, list[StackFrame]]] = []
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            found.append((int(heading[1], 16), heading[2] or "", []))
        elif found and (frame := _FRAME.fullmatch(line)):
            found[-1][2].append(_frame(*frame.groups()))
    known = {thread_id for thread_id, _, _ in found}
    last = found[-1][0] if found else None
    chosen = main if main in known else last
    return tuple(
        ThreadStack(
            thread_id=thread_id,
            name=name,
            main=thread_id == chosen,
            active=None,
            gil=None,
            frames=tuple(frames),
        )
        for thread_id, name, frames in found
    )


def _frame(path: str, line: str, function: str) -> StackFrame:
    number = int(line) if line.isdigit() else 0
    return StackFrame(function=function, path=path, file=Path(path).name, line=number)


def _main_thread(head: str) -> int | None:
    found = re.match(f"{_MAIN}0x([0-9a-f]+)\n", head)
    return int(found[1], 16) if found else None


def _state(pid: int) -> str:
    """One letter, as ps tells it; "": the process is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return ""
    return text.rpartition(") ")[2][:1]


def _mask(pid: int, name: str) -> int:
    try:
        text = (_PROC / str(pid) / "status").read_text("utf-8", "replace")
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s*([0-9a-f]+)$", text, re.MULTILINE)
    return int(found[1], 16) if found else 0


def _has_open(pid: int, file: str) -> bool:
    wanted = os.path.realpath(file)
    try:
        opened = list((_PROC / str(pid) / "fd").iterdir())
    except OSError:
        return False
    for link in opened:
        with contextlib.suppress(OSError):  # closed since
            if str(link.readlink()) == wanted:
                return True
    return False
