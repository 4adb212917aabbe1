"""Which rows are news: a pure state machine, one a rule; the time is passed in.

An alert (a key) is told when it appears, again every ``repeat_s`` while it lasts, and once when it
is over. One that returns within ``cooldown_s`` of its last telling waits until that has passed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectors.alerts.rule import AlertRule

    Row = dict[str, Any]

MOST_TOLD = 20
"""Alerts of one rule that are told at one time; the others follow at the next ones."""
MOST_KNOWN = 10_000
"""Alerts of one rule that are remembered; of more, the oldest are forgotten."""
_KEY_BYTES = 500
_ROW_BYTES = 10_000  # an event's attributes may be 16 KiB, message and all


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """Something to tell.

    Attributes:
        rule: its name; ``severity`` as the rule says.
        state: "firing", or "resolved" when it is over.
        key: what tells it from others of the rule, JSON.
        message: one line for people.
        row: the columns as JSON values, the last ones seen; of very wide rows, the first ones.
        since_s: when it appeared; ``at_s``: now (seconds since the epoch).
        count: how often this appearance has been told, this time included.
    """

    rule: str
    severity: str
    state: Literal["firing", "resolved"]
    key: str
    message: str
    row: Row
    since_s: float
    at_s: float
    count: int

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


@dataclass(kw_only=True)
class _Known:
    """A key that is there, or was told not long ago."""

    since_s: float
    row: Row
    active: bool = True
    told_s: float | None = None
    count: int = 0  # tellings of this appearance


class AlertPolicy:
    """The memory of one rule; see :meth:`follow` for one that was edited."""

    def __init__(self, rule: AlertRule) -> None:
        self._rule = rule
        self._known: dict[str, _Known] = {}

    @classmethod
    def from_json(cls, rule: AlertRule, state: dict[str, Any]) -> Self:
        """Go on after a restart with what :meth:`to_json` gave.

        Raises:
            TypeError, ValueError, AttributeError: it is not that.
        """
        policy = cls(rule)
        for key, data in state.items():
            known = _Known(**data)
            told_s = None if known.told_s is None else float(known.told_s)
            known.since_s, known.told_s, known.count = (
                float(known.since_s),
                told_s,
                int(known.count),
            )
            known.row, known.active = dict(known.row), bool(known.active)
            policy._known[key] = known
        return policy

    @property
    def active(self) -> int:
        """How many alerts there are now, told or not."""
        return sum(known.active for known in self._known.values())

    def follow(self, rule: AlertRule) -> None:
        """Go on by an edited rule."""
        self._rule = rule

    def take(self, rows: Sequence[Row], now_s: float, *, whole: bool = True) -> list[Alarm]:
        """What to tell, given the rows of now.

        Args:
            rows: JSON values by column.
            whole: whether these are all rows; if not, nobody is told that an alert is over.
        """
        seen = {self._key(row): row for row in reversed(rows)}
        alarms: list[Alarm] = []
        gone = [key for key, known in self._known.items() if known.active and key not in seen]
        for key in gone:
            told = self._end(key)
            if told and whole and self._rule.resolved:
                alarms.append(self._alarm("resolved", key, self._known[key], now_s))
        for key in reversed(seen):
            known = self._appeared(key, seen[key], now_s)
            if len(alarms) < MOST_TOLD and self._is_due(known, now_s):
                known.told_s = now_s
                known.count += 1
                alarms.append(self._alarm("firing", key, known, now_s))
        self._forget(now_s)
        return alarms

    def to_json(self) -> dict[str, Any]:
        """What a restart must remember."""
        return {key: asdict(known) for key, known in self._known.items()}

    def _key(self, row: Row) -> str:
        text = json.dumps([row.get(column) for column in self._rule.key or row], default=str)
        if len(text) <= _KEY_BYTES:
            return text
        return json.dumps([text[:60], blake2b(text.encode(), digest_size=16).hexdigest()])

    def _appeared(self, key: str, row: Row, now_s: float) -> _Known:
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = _Known(since_s=now_s, row={})
        elif not known.active:
            known.active, known.since_s, known.count = True, now_s, 0
        known.row = _fitting(row)
        return known

    def _is_due(self, known: _Known, now_s: float) -> bool:
        if known.told_s is None:
            return True
        known.told_s = min(known.told_s, now_s)  # a clock that was set back silences nothing
        wait_s = self._rule.cooldown_s if known.count == 0 else self._rule.repeat_s
        return (known.count == 0 or wait_s > 0) and now_s - known.told_s >= wait_s

    def _end(self, key: str) -> bool:
        """It is over; returns whether it had been told."""
        known = self._known[key]
        known.active = False
        return known.count > 0

    def _alarm(
        self, state: Literal["firing", "resolved"], key: str, known: _Known, now_s: float
    ) -> Alarm:
        return Alarm(
            rule=self._rule.name,
            severity=self._rule.severity,
            state=state,
            key=key,
            message=self._rule.text(known.row),
            row=known.row,
            since_s=known.since_s,
            at_s=now_s,
            count=known.count,
        )

    def _forget(self, now_s: float) -> None:
        """Keys that are gone are kept for the cooldown only."""
        for key, known in list(self._known.items()):
            cold = known.told_s is None or now_s - known.told_s >= self._rule.cooldown_s
            if not known.active and cold:
                del self._known[key]
        oldest = sorted(self._known, key=lambda key: self._known[key].since_s)
        for key in oldest[: max(0, len(oldest) - MOST_KNOWN)]:
            del self._known[key]


def _fitting(row: Row) -> Row:
    """The first columns of a row, as many as an event has room for."""
    fitting: Row = {}
    left = _ROW_BYTES
    for column, value in row.items():
        left -= len(json.dumps([column, value], default=str))
        if left < 0:
            break
        fitting[column] = value
    return fitting
