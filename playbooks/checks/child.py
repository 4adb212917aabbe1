"""Children that measure: they answer with one JSON line, or are ended.

A check that hangs must not hang who asked for it, so every check runs in a process of its own. Two
things end it where the killing of it is missed (its parent was killed itself): its standard input,
which closes with the parent, and an alarm that the kernel delivers even into a call that hangs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_ALARM_AFTER_S = 1.0  # later than the parent's own limit, which can say what happened


@dataclass(frozen=True, kw_only=True)
class Child:
    """What to start: a module of this package, its arguments, and additions to the environment."""

    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a child ended.

    Attributes:
        document: the JSON of its last line; None where it gave none.
        exit_code: negative where a signal ended it; None where it was ended for its time.
        failure: one line; "" where it answered and ended with 0.
    """

    document: Any
    exit_code: int | None
    failure: str


def run_children(
    children: Sequence[Child], *, limit_s: float, narrate: bool = False
) -> list[Answer]:
    """Start all at once and wait for all, ``limit_s`` at most; nothing is left running.

    With ``narrate`` what they write to stderr is shown at once, and else only a failure's last
    line is kept.
    """
    with ExitStack() as stack:
        started = [_Started(child, limit_s, stack, narrate=narrate) for child in children]
        deadline = time.monotonic() + limit_s
        return [process.wait(deadline) for process in started]


class _Started:
    def __init__(self, child: Child, limit_s: float, stack: ExitStack, *, narrate: bool) -> None:
        self._limit_s = limit_s
        # Files, not pipes: nobody has to read while they write.
        self._output = _open_file(stack)
        self._errors = None if narrate else _open_file(stack)
        alarm = f"{_ALARM}={limit_s + _ALARM_AFTER_S}"
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-X", alarm, "-m", child.module, *child.arguments],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env={**os.environ, **(child.environment or {})},
        )
        stack.callback(self._end)

    def wait(self, deadline: float) -> Answer:
        try:
            code = self._process.wait(timeout=max(deadline - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            self._end()
            failure = f"no answer within {self._limit_s:.1f} s"
            return Answer(document=None, exit_code=None, failure=failure)
        document = _last_json(self._output)
        failure = "" if code == 0 and document is not None else self._describe(code)
        return Answer(document=document, exit_code=code, failure=failure)

    def _describe(self, code: int) -> str:
        lines = _lines(self._errors) if self._errors is not None else []
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{ended}: {lines[-1]}" if lines else ended

    def _end(self) -> None:
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _open_file(stack: ExitStack) -> IO[bytes]:
    return stack.enter_context(tempfile.TemporaryFile())


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").strip().splitlines()


def _last_json(file: IO[bytes]) -> Any:  # noqa: ANN401 - any JSON value
    lines = _lines(file)
    try:
        return json.loads(lines[-1]) if lines else None
    except ValueError:
        return None


# -- in the child --------------------------------------------------------------------------------

_ALARM = "opsuite_alarm_s"  # an -X option of the interpreter: it stands beside any arguments


def depend_on_parent() -> None:
    """End this process with its parent, and at the latest when its time is over."""
    alarm_s = float(sys._xoptions.get(_ALARM, 0))
    if not alarm_s:
        return  # started by hand
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, alarm_s)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


def answer(document: Any) -> None:  # noqa: ANN401 - any JSON value
    """Print the one line that the parent waits for."""
    sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
    sys.stdout.flush()
