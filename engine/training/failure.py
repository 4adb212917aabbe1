"""How a launch ended: well, by a signal, or by a rank that failed first and what it says."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_TAIL_LINES = 15
_TAIL_BYTES = 16_384
_SIMULTANEOUS_S = 2


@dataclass(frozen=True, kw_only=True)
class Finished:
    """Every rank came to its end."""


@dataclass(frozen=True, kw_only=True)
class Interrupted:
    """A signal asked the launcher to stop; the ranks were stopped."""

    signal: str


@dataclass(frozen=True, kw_only=True)
class ObservedFailure:
    """The end of one rank, as the agent noticed it.

    Attributes:
        exit_code: of the process; minus the signal's number where a signal ended it.
        noticed_s: wall-clock seconds.
        reported_ns: wall-clock time of the error that the rank reported, or None.
        user_error: the reported error in words, where it is one that users can act on.
        traceback: of the reported error, or "".
        lost_peer: whether the reported error is that another rank went away.
    """

    rank: int
    exit_code: int
    noticed_s: int
    reported_ns: int | None = None
    user_error: str = ""
    traceback: str = ""
    lost_peer: bool = False


@dataclass(frozen=True, kw_only=True)
class RankFailure:
    """Why a launch failed.

    Attributes:
        rank: the first that failed.
        signal: name of the signal that ended it, or None.
        log: the rank's log; ``tail`` its last lines.
        traceback: of its error, or "".
        user_error: its error in words, or "".
    """

    rank: int
    host: str
    exit_code: int
    signal: str | None
    log: Path
    tail: str
    traceback: str
    user_error: str

    def __str__(self) -> str:
        end = f"killed by {self.signal}" if self.signal else f"exit code {self.exit_code}"
        lines = [f"rank {self.rank} on {self.host} failed first: {end}"]
        if self.user_error:
            return "\n".join([*lines, self.user_error])
        if self.signal == signal.SIGKILL.name:
            lines.append("  (somebody's kill -9, or the kernel's for want of memory: see dmesg)")
        said = (self.traceback or self.tail).splitlines()
        lines.append(f"  log: {self.log}{'' if said else ' (empty)'}")
        lines += [f"  | {line}" for line in said]
        return "\n".join(lines)


def log_path(logs: Path, rank: int) -> Path:
    """Where a rank's output goes."""
    return logs / f"rank{rank}.log"


def first_failure(failures: Sequence[ObservedFailure]) -> ObservedFailure:
    """The cause among ``failures`` (in the order noticed), the others being its consequences.

    Once a rank has failed, its peers fail too: they lose their connection and report an error, or
    the agent ends them with SIGTERM and, seconds later, SIGKILL. So among the ends noticed at about
    the same time, the cause is one by another signal; else a SIGTERM that came before the agent's;
    else the earliest error that is not a lost connection.
    """
    start = min(f.noticed_s for f in failures)
    early = [f for f in failures if f.noticed_s <= start + _SIMULTANEOUS_S]
    for failure in early:
        if failure.exit_code < 0 and failure.exit_code != -signal.SIGTERM:
            return failure
    if early[0].exit_code < 0:
        return early[0]
    own = [f for f in early if f.exit_code > 0 and not f.lost_peer]
    terminated = [f for f in early if f.exit_code < 0]
    candidates = own or terminated or early
    return min(candidates, key=lambda f: f.reported_ns or f.noticed_s * 1_000_000_000)


def explain(failure: ObservedFailure, *, host: str, log: Path) -> RankFailure:
    """Add what the rank's log says last."""
    return RankFailure(
        rank=failure.rank,
        host=host,
        exit_code=failure.exit_code,
        signal=_signal_name(failure.exit_code),
        log=log,
        tail=_tail(log),
        traceback=failure.traceback,
        user_error=failure.user_error,
    )


def _signal_name(exit_code: int) -> str | None:
    if exit_code >= 0:
        return None
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"  # a real-time signal has no name


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(lines[-_TAIL_LINES:])
