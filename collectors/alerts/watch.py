"""Asks the rules when they are due, and passes on what is new.

A rule that cannot be asked is told once in the log, shown in the status, and stops no other.
"""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from collectors.alerts.policy import AlertPolicy
from collectors.alerts.rule import load_rules
from collectors.atomic import write_atomically
from collectors.errors import OpsuiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from collectors.alerts.policy import Alarm, Row
    from collectors.alerts.rule import AlertRule
    from collectors.query.source import Answer

_log = logging.getLogger("opsuite")
STATE = "alerts.state.json"
MOST_ROWS = 1000


@dataclass(kw_only=True)
class _Watched:
    """A rule, its memory, and when it is asked next."""

    rule: AlertRule
    policy: AlertPolicy
    due_s: float = -math.inf
    error: str = ""


class AlertWatch:
    """Watches the rules of one file; what was told survives a restart.

    Args:
        path: ``alerts.toml``; read again when it changes, and it may not exist.
        state: the file that remembers what was told.
        ask: runs (SQL, most rows); an OpsuiteError is the rule's error.
        record: stores alarms as events of their runs.
        tell: passes one alarm to its rule's channels.
    """

    def __init__(
        self,
        path: Path,
        state: Path,
        *,
        ask: Callable[[str, int], Answer],
        record: Callable[[Sequence[Alarm]], None],
        tell: Callable[[AlertRule, Alarm], None],
    ) -> None:
        self._path = path
        self._state = state
        self._ask = ask
        self._record = record
        self._tell = tell
        self._stamp: tuple[int, int] | None = None
        self._watched: dict[str, _Watched] = {}
        self._remembered = _read_state(state)
        self._error = ""

    def tick(self, now_s: float) -> list[Alarm]:
        """Ask every rule that is due; returns what was told (``now_s``: since the epoch)."""
        self._reload()
        alarms: list[Alarm] = []
        for watched in self._watched.values():
            # A clock that was set back must not silence a rule for that long.
            if watched.due_s - watched.rule.every_s <= now_s < watched.due_s:
                continue
            watched.due_s = now_s + watched.rule.every_s
            for alarm in self._look(watched, now_s):
                self._tell(watched.rule, alarm)
                alarms.append(alarm)
        if alarms:
            self._record(alarms)
            self._remember()
        return alarms

    @property
    def rules(self) -> list[AlertRule]:
        """Those that are asked."""
        return [watched.rule for watched in list(self._watched.values())]

    def status(self) -> dict[str, Any]:
        """``error`` of the file, and of each rule its name, alerts and error."""
        rules = [
            {"name": name, "active": watched.policy.active, "error": watched.error}
            for name, watched in self._watched.items()
        ]
        return {"error": self._error, "rules": rules}

    def _look(self, watched: _Watched, now_s: float) -> list[Alarm]:
        try:
            answer = self._ask(watched.rule.sql, MOST_ROWS)
            watched.rule.check_columns(answer.columns)
        except (OpsuiteError, ValueError) as error:
            text = " ".join((error.what if isinstance(error, OpsuiteError) else str(error)).split())
            if text != watched.error:
                _log.warning("alert %s cannot be looked for: %s", watched.rule.name, text)
            watched.error = text
            return []
        watched.error = ""
        return watched.policy.take(json_rows(answer), now_s, whole=not answer.truncated)

    def _reload(self) -> None:
        """Take over the file where it changed; a wrong one changes nothing and is told once."""
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            rules = [] if stamp is None else load_rules(self._path)
        except OpsuiteError as error:
            _log.warning("the alerts stay as they were: %s", error)
            self._error = " ".join(error.what.split())
            return
        self._error = ""
        self._watched = {rule.name: self._adopt(rule) for rule in rules}

    def _adopt(self, rule: AlertRule) -> _Watched:
        before = self._watched.get(rule.name)
        if before is not None:
            before.policy.follow(rule)
            return _Watched(rule=rule, policy=before.policy)
        return _Watched(rule=rule, policy=_policy(rule, self._remembered.get(rule.name)))

    def _remember(self) -> None:
        state = {name: watched.policy.to_json() for name, watched in self._watched.items()}
        try:
            write_atomically(self._state, json.dumps(state))
        except OSError as error:
            _log.warning("a restart will tell alerts again: %s", error.strerror or error)


def json_rows(answer: Answer) -> list[Row]:
    """The rows of an answer as dictionaries of JSON values."""
    names = answer.columns
    return [dict(zip(names, map(_json_value, row), strict=True)) for row in answer.rows]


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any SQL value
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, date | datetime):
        return value.isoformat()
    return str(value)[:2000]


def _policy(rule: AlertRule, state: Any) -> AlertPolicy:  # noqa: ANN401 - any JSON
    try:
        return AlertPolicy.from_json(rule, state or {})
    except (TypeError, AttributeError, ValueError):
        _log.warning("what alert %s told before is forgotten: its state is corrupt", rule.name)
        return AlertPolicy(rule)


def _read_state(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        _log.warning("alerts may be told again: %s cannot be read", path)
        return {}
    return data if isinstance(data, dict) else {}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size
