"""What launchers print of ranks that failed: torchrun's report, and that of mp.spawn."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass

_TORCHRUN = re.compile(
    r"^\[(?P<index>\d{1,7})\]: *\n"
    r" {2}time {6}: (?P<time>[\d_:-]{1,32}) *\n"
    r" {2}host {6}: (?P<host>\S{1,255}) *\n"
    r" {2}rank {6}: (?P<rank>\d{1,7}) .*\n"
    r" {2}exitcode {2}: (?P<code>-?\d{1,4}) .*\n"
    r" {2}error_file: .*\n"
    r" {2}traceback : (?P<said>.*)$",
    re.MULTILINE,
)
_RAISED = re.compile(r"^-- Process (\d{1,7}) terminated with the following error:$", re.MULTILINE)
_EXITED = re.compile(
    r"process (?P<rank>\d{1,7}) terminated with (?:signal (?P<signal>\w+)|exit code (?P<code>\d+))"
)


@dataclass(frozen=True, kw_only=True)
class ReportedEnd:
    """The end of a rank, as its launcher saw it.

    Attributes:
        exit_code: minus the signal's number where a signal ended it.
        noticed_s: wall-clock seconds.
        host: "" where it is not told.
        traceback: of its error; "": not told.
    """

    rank: int
    exit_code: int
    noticed_s: int
    host: str = ""
    traceback: str = ""


def read_report(text: str) -> list[ReportedEnd]:
    """The ranks that failed, in the order noticed, by the last words of a launcher."""
    text = text.replace("\r\n", "\n")
    _, found, last = text.rpartition("ChildFailedError")
    if found and (ends := sorted(_TORCHRUN.finditer(last), key=lambda end: int(end["index"]))):
        return [_from_torchrun(end) for end in ends]
    return _from_spawn(text)


def _from_torchrun(found: re.Match[str]) -> ReportedEnd:
    try:
        noticed_s = int(time.mktime(time.strptime(found["time"], "%Y-%m-%d_%H:%M:%S")))
    except ValueError:
        noticed_s = 0
    return ReportedEnd(
        rank=int(found["rank"]),
        exit_code=int(found["code"]),
        noticed_s=noticed_s,
        host="" if found["host"] == "localhost" else found["host"],
    )


def _from_spawn(text: str) -> list[ReportedEnd]:
    now_s = int(time.time())
    raised = _last(_RAISED, text)
    if raised is not None:
        said = text[raised.end() :].strip()
        return [
            ReportedEnd(rank=int(raised[1]), exit_code=1, noticed_s=now_s, traceback=said[-4000:])
        ]
    exited = _last(_EXITED, text)
    if exited is None:
        return []
    code = int(exited["code"]) if exited["code"] else -_number(exited["signal"])
    return [ReportedEnd(rank=int(exited["rank"]), exit_code=code, noticed_s=now_s)]


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    found = None
    for match in pattern.finditer(text):
        found = match
    return found


def _number(name: str) -> int:
    try:
        return signal.Signals[name].value
    except KeyError:
        return signal.SIGKILL
