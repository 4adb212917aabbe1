"""Alerts inside the daemon: begun when ``alerts.toml`` appears, asked like any user's SQL."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError
from collectors.query.answers import answer_of
from collectors.run import RunDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from collectors.alerts.notification import Notifier
    from collectors.alerts.policy import Alarm
    from collectors.alerts.watch import AlertWatch
    from collectors.daemon.collection import Collection
    from collectors.daemon.journal import Journal
    from collectors.query.readers import ReaderPool
    from collectors.query.source import Answer

_log = logging.getLogger("opsuite")
_LOOK_S = 1.0
_FRESH_S = 1.0


class Alerting:
    """The alerts of a home."""

    def __init__(
        self, home: Path, collection: Collection, readers: ReaderPool, journal: Journal
    ) -> None:
        self._home = home
        self._collection = collection
        self._readers = readers
        self._journal = journal
        self._watch: AlertWatch | None = None
        self._notifier: Notifier | None = None

    def look(self) -> float:
        """Ask the rules that are due; in how many seconds to look again."""
        if self._watch is None:
            self._begin()
        if self._watch is not None:
            self._watch.tick(time.time())
        return _LOOK_S

    def _begin(self) -> None:
        from collectors.alerts.rule import FILE

        path = self._home / FILE
        if not path.exists():
            return
        from collectors.alerts.notification import JOURNAL, Notifier
        from collectors.alerts.watch import STATE, AlertWatch

        self._notifier = Notifier(self._home / JOURNAL)
        self._watch = AlertWatch(
            path,
            self._home / STATE,
            ask=self._ask,
            record=self._record,
            tell=self._notifier.tell,
        )

    def _ask(self, sql: str, limit: int) -> Answer:
        snapshot, _ = self._collection.snapshot(_FRESH_S)
        return answer_of(self._readers.ask(snapshot, sql, limit=limit))

    def _record(self, alarms: Sequence[Alarm]) -> None:
        """Each as an event of the run that its row names, or else of the newest."""
        for alarm in alarms:
            named = alarm.row.get("run_id")
            try:
                run = RunDirectory.open(self._home, named if isinstance(named, str) else "last")
                self._journal.record(run, "alert", alarm.to_json())
            except OpsuiteError as error:
                _log.warning("an alert is not recorded: %s", error)

    def status(self) -> dict[str, Any] | None:
        """What the watch says of its rules; None where there are none."""
        return None if self._watch is None else self._watch.status()

    def troubles(self) -> list[str]:
        """What keeps alerts from being looked for, or told, now."""
        if self._watch is None or self._notifier is None:
            return []
        from collectors.alerts.rule import FILE

        status = self._watch.status()
        found = [f"{FILE} is not followed: {status['error']}"] if status["error"] else []
        found += [
            f"alert {rule['name']} cannot be looked for: {rule['error']}"
            for rule in status["rules"]
            if rule["error"]
        ]
        return found + self._notifier.troubles(self._watch.rules)

    def close(self) -> None:
        """Let what is being told end."""
        if self._notifier is not None:
            self._notifier.close()
