"""Why a command failed: the rank that failed first, how it ended, and what it said last."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from collectors.board_reader import open_boards
from collectors.clock import host_name, process_lives_since, process_space
from engine.training.failure import ObservedFailure, explain, first_failure, log_path
from opsuite.running import launcher_log
from opsuite.running.launcher_report import ReportedEnd, read_report
from opsuite.running.screen import harmless_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from collectors.board import BoardFacts

_TAIL_BYTES = 1 << 18
_TAIL_LINES = 30
_BY_SHELL = 128  # and the signal's number: how a shell tells that a signal ended what it ran
_CRASH = "Fatal Python error: "
_TRACEBACK = "Traceback (most recent call last):"
# What a rank says when another has gone away, in the words of gloo, of its store, and of NCCL.
_LOST_PEER = re.compile(
    r"Connection (?:closed|reset) by peer|Broken pipe|ncclRemoteError|remote process exited"
    r"|NCCL communicator was aborted|Failed to recv|recvValue failed|sendBytes failed"
    r"|Application timeout caused pair closure"
)
_PREFIX = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)  # torch's own, in every line of a traceback


@dataclass(frozen=True, kw_only=True)
class LastWord:
    """What a rank's board says of its end.

    Attributes:
        left: None: it ended without a word, or lives.
    """

    facts: BoardFacts
    left: bool | None
    words: str

    @property
    def vanished(self) -> bool:
        """Whether it is gone and has not said how."""
        here = self.facts.space == process_space()
        lives = not here or process_lives_since(self.facts.pid, self.facts.since_ns)
        return self.left is None and not lives


def last_words(run: Path) -> dict[int, LastWord]:
    """By rank, of its last process."""
    found: dict[int, LastWord] = {}
    for reader in open_boards(run / "boards"):
        state, facts = reader.read(), reader.facts
        known = found.get(facts.rank)
        if known is None or known.facts.since_ns < facts.since_ns:
            found[facts.rank] = LastWord(facts=facts, left=state.left, words=state.last_words)
        reader.close()
    return found


def explain_failure(run: Path, exit_code: int, words: Mapping[int, LastWord]) -> str:
    """For people: who failed first, and how; without power over their terminal.

    Args:
        exit_code: of the command; minus the signal's number where a signal ended it.
        words: by rank (:func:`last_words`).
    """
    return harmless_text(_explained(run / "logs", exit_code, words))


def _explained(logs: Path, exit_code: int, words: Mapping[int, LastWord]) -> str:
    reported = read_report(_launcher_tail(logs)) or _from_boards(words)
    if not reported:
        vanished = sorted(rank for rank, word in words.items() if word.vanished)
        return _silent_end(logs, exit_code, vanished, words)
    observed = [_observe(end, logs, words) for end in reported]
    first = first_failure(observed)
    told = next(end.host for end in reported if end.rank == first.rank)
    host = words[first.rank].facts.host if first.rank in words else told or host_name()
    return str(explain(first, host=host, log=_log_of(logs, first.rank)))


def last_traceback(text: str) -> str:
    """The last traceback in a log, to its end; "" where there is none."""
    text = _PREFIX.sub("", text)
    _, found, rest = text.rpartition(_TRACEBACK)
    if not found:
        return ""
    kept: list[str] = []
    for line in rest.splitlines()[1:]:
        kept.append(line)
        if line and not line[0].isspace():  # the error itself; its message may go on for long
            break
    return "\n".join([_TRACEBACK, *kept[-_TAIL_LINES:]])


def last_crash(text: str) -> str:
    """The stacks that Python wrote as it crashed, as by a segmentation fault; "": it did not."""
    _, found, rest = text.rpartition(_CRASH)
    return "\n".join((found + rest).splitlines()[:_TAIL_LINES]) if found else ""


def read_tail(log: Path) -> str:
    """The end of a log; "" where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except OSError:  # a rank that began none, or nothing was captured
        return ""


def _launcher_tail(logs: Path) -> str:
    return launcher_log.read_tail(logs, _TAIL_BYTES).decode("utf-8", "replace")


def _from_boards(words: Mapping[int, LastWord]) -> list[ReportedEnd]:
    now_s = int(time.time())
    return [
        ReportedEnd(rank=rank, exit_code=1, noticed_s=now_s, host=word.facts.host)
        for rank, word in sorted(words.items())
        if word.left is False
    ]


def _observe(end: ReportedEnd, logs: Path, words: Mapping[int, LastWord]) -> ObservedFailure:
    said = end.traceback
    if not said:
        last = last_traceback if end.exit_code > 0 else last_crash
        said = last(read_tail(_log_of(logs, end.rank)))
    if not said and end.rank in words:
        said = words[end.rank].words.strip()
    return ObservedFailure(
        rank=end.rank,
        exit_code=end.exit_code,
        noticed_s=end.noticed_s,
        traceback=said,
        lost_peer=_LOST_PEER.search(said) is not None,
    )


def _silent_end(
    logs: Path, exit_code: int, vanished: Sequence[int], words: Mapping[int, LastWord]
) -> str:
    log = logs / launcher_log.NAME
    said = last_traceback(_launcher_tail(logs))
    if exit_code > _BY_SHELL:
        exit_code = _BY_SHELL - exit_code
    told = explain(
        ObservedFailure(rank=0, exit_code=exit_code, noticed_s=0, traceback=said),
        host=host_name(),
        log=log,
    )
    lines = ["the command failed: " + str(told).partition(" failed first: ")[2]]
    if exit_code == -signal.SIGPIPE:
        lines.append("  (who read its output has gone away)")
    if len(words) > 1 and vanished:
        who = ", ".join(map(str, vanished))
        lines.insert(0, f"ended without a word: rank {who} on {words[vanished[0]].facts.host}")
    return "\n".join(lines)


def _log_of(logs: Path, rank: int) -> Path:
    own = log_path(logs, rank)
    return own if own.exists() else logs / launcher_log.NAME
