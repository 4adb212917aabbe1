"""What one log tells: lines in, events out, each kind of line once and then its count."""

from __future__ import annotations

import json
import re
from collections import deque
from dataclasses import dataclass, field

from collectors.redaction import redact_text
from collectors.samplers.log_rules import TRACEBACK, Severity, match_rule, normalised

MOST_KINDS = 256
"""Distinct texts of a log that are told; those beyond are counted together."""
AGAIN_S = 30.0
OTHERS = "others"
_LINE_BYTES, _TEXT_BYTES = 2_000, 10_000  # as JSON; an event's attributes may be 16 KiB
_MOST_LINES = 2000
_HEAD_LINES, _TAIL_LINES = 4, 60
_BEGIN = re.compile(r"^(?P<before>.{0,80}?)Traceback \(most recent call last\):\s*$")
_ERROR = re.compile(r"[A-Za-z_][\w.]{0,200}(?::.*)?")  # what else is printed meanwhile is kept
_CHAINED = re.compile(
    r"During handling of the above exception, another exception occurred:"
    r"|The above exception was the direct cause of the following exception:"
)


@dataclass(frozen=True, kw_only=True)
class LogEvent:
    """Trouble that a log tells of.

    Attributes:
        rule: its kind (:mod:`.log_rules`).
        line: the first line of this text, without secrets; of a traceback the error's.
        count: how many there have been so far; numbers and addresses in them may differ.
        text: the whole traceback; "": there is none.
    """

    rule: str
    severity: Severity
    line: str
    count: int = 1
    text: str = ""


class LogEvents:
    """The events of one log. The clock is passed in, in seconds."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._others = _Tally(LogEvent(rule=OTHERS, severity=Severity.WARNING, line="others"))
        self._traceback: _Traceback | None = None

    def feed(self, lines: list[str], now_s: float) -> list[LogEvent]:
        """What these lines tell."""
        return [event for line in lines for event in self._line(line, now_s)]

    def idle(self, now_s: float) -> list[LogEvent]:
        """Nothing came for a while: what is held back, and counts that have grown."""
        found = self._finish(now_s)
        for tally in (*self._tallies.values(), self._others):
            found += tally.due(now_s)
        return found

    def end(self, now_s: float) -> list[LogEvent]:
        """Nothing will come: all counts that were not told."""
        found = self._finish(now_s)
        for tally in (*self._tallies.values(), self._others):
            found += tally.untold(now_s)
        return found

    def _line(self, line: str, now_s: float) -> list[LogEvent]:
        if self._traceback is not None:
            if self._traceback.take(line):
                return []
            return self._finish(now_s) + self._line(line, now_s)
        if "Traceback" in line and (begun := _BEGIN.match(line)):
            self._traceback = _Traceback(begun["before"], line)
            return []
        rule = match_rule(line)
        return [] if rule is None else self._count(rule.name, rule.severity, line, "", now_s)

    def _finish(self, now_s: float) -> list[LogEvent]:
        block, self._traceback = self._traceback, None
        if block is None:
            return []
        found = self._count(TRACEBACK, Severity.ERROR, block.error, block.text, now_s)
        rule = match_rule(block.error)  # what kind of error it was
        if rule is not None:
            found += self._count(rule.name, rule.severity, block.error, "", now_s)
        return found

    def _count(
        self, rule: str, severity: Severity, line: str, text: str, now_s: float
    ) -> list[LogEvent]:
        kind = (rule, normalised(line))
        tally = self._tallies.get(kind)
        if tally is None and len(self._tallies) >= MOST_KINDS:
            tally = self._others
        if tally is None:
            first = LogEvent(
                rule=rule,
                severity=severity,
                line=_fitted(redact_text(line.strip()), _LINE_BYTES),
                text=_fitted(redact_text(text), _TEXT_BYTES),
            )
            tally = self._tallies[kind] = _Tally(first)
        return tally.add(now_s)


@dataclass
class _Tally:
    """How often something came, and what was told of it: 1, 2, 10, 100, ... or every 30 s."""

    first: LogEvent
    count: int = 0
    told: int = 0
    told_s: float = field(default=0.0)

    def add(self, now_s: float) -> list[LogEvent]:
        self.count += 1
        next_told = {0: 1, 1: 2, 2: 10}.get(self.told, 10 ** len(str(self.told)))
        return self._tell(now_s) if self.count >= next_told else self.due(now_s)

    def due(self, now_s: float) -> list[LogEvent]:
        return self.untold(now_s) if now_s - self.told_s >= AGAIN_S else []

    def untold(self, now_s: float) -> list[LogEvent]:
        return self._tell(now_s) if self.count > self.told else []

    def _tell(self, now_s: float) -> list[LogEvent]:
        self.told, self.told_s = self.count, now_s
        first = self.first
        return [
            LogEvent(
                rule=first.rule,
                severity=first.severity,
                line=first.line,
                count=self.count,
                text=first.text if self.count == 1 else "",
            )
        ]


class _Traceback:
    """The lines of a traceback, and of those that it is chained with, while they come."""

    def __init__(self, before: str, line: str) -> None:
        # Such as torch's "[rank0]: "; a group of exceptions has bars.
        self._before = before.replace("+ Exception Group ", "| ")
        self._head = [line]
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._ended = False
        self._kept = 0
        self.error = "(unfinished)"

    def take(self, line: str) -> bool:
        """Add a line; False: it is not of the traceback any more."""
        own = line.removeprefix(self._before)
        if self._ended:
            if _CHAINED.search(own):
                self._ended = False
            elif own.strip():
                return False
        elif _ERROR.fullmatch(own) and _BEGIN.match(line) is None:
            self._ended, self.error = True, own
        self._kept += 1
        self._keep(line)
        return self._kept < _MOST_LINES

    def _keep(self, line: str) -> None:
        if len(self._head) < _HEAD_LINES:
            self._head.append(line)
        else:
            self._tail.append(line)

    @property
    def text(self) -> str:
        """Its beginning and end."""
        lines = [*self._head, *self._tail]
        while lines and not lines[-1].strip():
            lines.pop()
        return "\n".join(lines)


def _fitted(text: str, most: int) -> str:
    """Its beginning and its end, where it is too long."""
    kept = len(text)
    shown = text
    while len(json.dumps(shown)) > most:
        kept = kept * 3 // 4
        shown = f"{text[: kept // 4]} ... {text[len(text) - kept * 3 // 4 :]}"
    return shown
