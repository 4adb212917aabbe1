"""The command of a run: started in the foreground, told every signal, and never left behind."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from collectors.errors import UsageError
from collectors.stop_request import heeded
from opsuite.output import narrate
from opsuite.running.stopping import HINT_S, LAST_S, Resort, Stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    import psutil

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
_HANDLED = {*_STOPPING, *_PASSED_ON, signal.SIGCHLD, signal.SIGWINCH}
_BY_KERNEL = 0x80  # si_code: the terminal's driver sent it, to all of the foreground


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended.

    Attributes:
        exit_code: minus the signal's number where a signal ended it.
        interrupted: name of the signal by which somebody asked for the end; "": nobody did.
    """

    exit_code: int
    interrupted: str = ""


def find_command(command: Sequence[str]) -> None:
    """Whether ``command`` can be started.

    Raises:
        UsageError: it cannot, and why.
    """
    if sys.platform != "linux":
        raise UsageError(
            "opsuite run needs Linux",
            where=sys.platform,
            remedy="start the trainer as ever, with opsuite.watch(model, optimizer) in it",
        )
    if not command:
        raise UsageError(
            "there is no command to run",
            where="opsuite run",
            remedy="write it after two dashes: opsuite run -- torchrun train.py",
        )
    if shutil.which(command[0]) is None:
        kind = "cannot be executed" if os.path.exists(command[0]) else "was not found"  # noqa: PTH110
        raise UsageError(
            f"the command {command[0]!r} {kind}",
            where="opsuite run",
            remedy="check its name and PATH, and write it after two dashes",
        )


class ForegroundCommand:
    """A child in our own process group and terminal; a context that lets none of it live on.

    Ctrl-C reaches it from the terminal; what is sent to us alone is passed on. Where it goes on for
    long, a further signal ends all of it. It gets SIGTERM when we are killed. Signals that we were
    started to ignore (``nohup``) stay ignored. Make it in the main thread, before any other thread
    begins.

    Args:
        streams: descriptors of its stdout and stderr.
        resized: called when the terminal has another size.
        spared: other children of ours, which are not of the command.

    Raises:
        UsageError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        streams: tuple[int, int],
        resized: Callable[[], None],
        spared: frozenset[int] = frozenset(),
    ) -> None:
        self._resized = resized
        self._spared = spared
        self._stopping = Stopping()
        self._libc = ctypes.CDLL(None)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what its children leave behind comes to us
        self._handled = set(heeded(_HANDLED))
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)
        parent = os.getpid()
        try:
            self._child = subprocess.Popen(
                command,
                env=environment,
                stdout=streams[0],
                stderr=streams[1],
                preexec_fn=lambda: self._in_child(parent),  # noqa: PLW1509 - no thread yet
            )
        except OSError as error:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            raise UsageError(
                f"the command cannot be started: {error.strerror}",
                where=command[0],
                remedy="check that it is a program, with an interpreter that exists",
            ) from error

    def _in_child(self, parent: int) -> None:
        self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    @property
    def pid(self) -> int:
        """Of the child."""
        return self._child.pid

    def wait(self, *, every_s: float, look: Callable[[], None]) -> CommandEnd:
        """Until it ends, passing signals on and calling ``look`` every ``every_s`` seconds."""
        due = time.monotonic() + every_s
        while self._child.poll() is None:
            told = signal.sigtimedwait(self._handled, max(0.0, due - time.monotonic()))
            if told is not None:
                self._handle(told)
            if time.monotonic() >= due:
                look()
                self._resort(self._stopping.look(time.monotonic()))
                due = time.monotonic() + every_s
        return CommandEnd(exit_code=self._child.returncode, interrupted=self._stopping.asked_by)

    def _handle(self, told: signal.struct_siginfo) -> None:
        number = signal.Signals(told.si_signo)
        if number == signal.SIGWINCH:
            self._resized()
        elif number != signal.SIGCHLD:
            if number in _STOPPING:
                self._resort(self._stopping.asked(number.name, time.monotonic()))
            if told.si_code != _BY_KERNEL:
                self._child.send_signal(number)

    def _resort(self, to: Resort | None) -> None:
        if to is Resort.HINT:
            after = f"still running {HINT_S:g} s after {self._stopping.asked_by}"
            with suppress(OSError):  # nobody reads it
                narrate(f"{after}; another one (Ctrl-C) ends the command and all its processes")
        elif to is not None:
            end = "terminate" if to is Resort.TERMINATE else "kill"
            for each in _descendants(self._spared):
                _try(getattr(each, end))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._child.poll() is None:
                self._child.terminate()
                self._wait_briefly()
            if error is not None or self._stopping.asked_by or self._child.returncode:
                _end_descendants(self._spared)
        finally:
            while signal.sigtimedwait(self._handled, 0) is not None:
                pass  # a second Ctrl-C, while it ended
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _wait_briefly(self) -> None:
        try:
            self._child.wait(LAST_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _descendants(spared: frozenset[int]) -> list[psutil.Process]:
    import psutil

    return [one for one in psutil.Process().children(recursive=True) if one.pid not in spared]


def _end_descendants(spared: frozenset[int]) -> None:
    """End what a failed command left behind, such as the launcher of a script that was killed."""
    import psutil

    left = _descendants(spared)
    for each in left:
        _try(each.terminate)
    _, left = psutil.wait_procs(left, timeout=LAST_S)
    for each in left:
        _try(each.kill)
    psutil.wait_procs(left, timeout=1.0)


def _try(end: Callable[[], None]) -> None:
    import psutil

    try:
        end()
    except psutil.Error:  # it has ended meanwhile, or is another user's
        return
