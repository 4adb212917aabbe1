"""All that Prometheus is told, of a run and of the collector, within a bounded time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from typing import TYPE_CHECKING, Any

from collectors.errors import OpsuiteError, TimedOut
from collectors.exporters.families import Families
from collectors.exporters.run_metrics import tell_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from collectors.query.source import Source

TIMEOUT_S = 8.0
"""Below Prometheus's own 10 seconds, so that it hears why."""


class MetricsPage:
    """Makes the page; one at a time, and whoever asks meanwhile gets the same one.

    Args:
        reference: the run: its id, a beginning of it, or "last".
        open_store: opens the store, in the thread that asks it.
        status: what the collector says of itself (``opsuite collect status``); None: none runs.
        timeout_s: how long a caller waits.
    """

    def __init__(
        self,
        reference: str,
        *,
        open_store: Callable[[], Source],
        status: Callable[[], Mapping[str, Any] | None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._reference = reference
        self._open_store = open_store
        self._status = status
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="metrics")
        self._making: Future[bytes] | None = None

    def make(self) -> bytes:
        """The page as it is now.

        Raises:
            TimedOut: the store takes too long; it is not asked again before it has answered.
            OpsuiteError: the store or the run cannot be read.
        """
        with self._lock:
            if self._making is None or self._making.done():
                self._making = self._worker.submit(self._collect)
            making = self._making
        try:
            return making.result(self._timeout_s)
        except TooLate:
            raise TimedOut(
                f"the store did not answer within {self._timeout_s:g} s",
                remedy="scrape less often, or see `opsuite collect status`",
            ) from None

    def close(self) -> None:
        """Make none any more; one that is being made is not waited for."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _collect(self) -> bytes:
        began = time.monotonic()
        families = Families()
        self._tell_collector(families)
        with self._open_store() as store:
            tell_run(store, self._reference, families)
        about = "How long it took to make this page."
        families.gauge("opsuite_scrape_duration_seconds", about, {}, time.monotonic() - began)
        return families.text()

    def _tell_collector(self, families: Families) -> None:
        try:
            status = self._status()
        except OpsuiteError:
            status = None  # it has just gone, or is too busy: as if there were none
        families.gauge("opsuite_collector_up", "Whether it runs.", {}, status is not None)
        if status is None:
            return
        lag = status["lag"]["last_minute"]
        for share, key in (("0.5", "p50_s"), ("0.99", "p99_s"), ("1", "max_s")):
            about = "How long records of the last minute waited for their collection."
            families.gauge("opsuite_collector_lag_seconds", about, {"quantile": share}, lag[key])
        about = "Records that the collector has taken in."
        families.counter(
            "opsuite_collector_records", about, {}, status["lag"]["since_start"]["count"]
        )
        alerts = status["alerts"] or {"rules": ()}  # None: there are no rules
        for rule in alerts["rules"]:
            about = "Rows for which a rule raises the alarm."
            families.gauge("opsuite_alerts_firing", about, {"rule": rule["name"]}, rule["active"])
