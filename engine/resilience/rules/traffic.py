"""Traffic of a host that leaves its pattern (MegaScale, section 4.2).

Training sends about as much in every step. Bytes sent are compared per step, over windows of
several, with the windows before: a change of the network shows before it stops the job. Traffic
that stops altogether is a fault of its own only while steps still end elsewhere; else the step is
overdue, and that rule names who is waited for.
"""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

from engine.resilience.cause import Cause, Incident

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.resilience.messages import Beat
    from engine.resilience.rules.rule import Attempt, Sight

_WINDOW_S = 5.0
_REMEMBERED = 12  # windows
_ENOUGH = 4
_OFF = 3.0  # times more or less a step than usual
_LEAST_BYTES = 100_000  # a step: less is not worth a word


class Traffic:
    """Bytes a step of each host, in windows."""

    def __init__(self, attempt: Attempt) -> None:
        self._begun: dict[str, tuple[float, int, int]] = {}  # when, bytes, step
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._told: set[str] = set()

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        if beat.sent_bytes is None or not sight.step:
            return ()
        begun, sent, step = self._begun.setdefault(beat.host, (now, beat.sent_bytes, sight.step))
        if beat.sent_bytes < sent:  # another executor, or its counter began anew
            del self._begun[beat.host]
            return ()
        if now - begun < _WINDOW_S or sight.step == step:
            return ()
        self._begun[beat.host] = (now, beat.sent_bytes, sight.step)
        return self._judge(beat.host, (beat.sent_bytes - sent) / (sight.step - step))

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: counters come with heartbeats."""
        return ()

    def _judge(self, host: str, of_step: float) -> Sequence[Incident]:
        windows = self._usual[host]
        usual = median(windows) if len(windows) >= _ENOUGH else of_step
        off = max(usual, of_step) > _LEAST_BYTES and not usual / _OFF <= of_step <= usual * _OFF
        if not off:
            windows.append(of_step)
            self._told.discard(host)
            return ()
        if host in self._told:
            return ()
        self._told.add(host)
        detail = f"{of_step / 1e6:.2f} MB sent a step, usually {usual / 1e6:.2f} MB"
        return (Incident(cause=Cause.TRAFFIC, recover=False, hosts=(host,), detail=detail),)
