"""A host whose link is slow: its packets take long, those of others do not.

Heartbeats share the link with the job. Where it carries less than the job wants to send, packets
queue, and the round trip to the driver grows from below a millisecond to the length of that queue;
the kernel measures it, whatever the processes at both ends are busy with.
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

_LONG_S = 0.1  # inside a data centre it is below a millisecond; acknowledgements wait 40 ms at most
_FACTOR = 5.0  # times the usual
_IN_A_ROW = 3  # heartbeats
_REMEMBERED = 60


class Link:
    """Round trips between each host and the driver."""

    def __init__(self, attempt: Attempt) -> None:
        self._usual: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))
        self._long: dict[str, int] = defaultdict(int)

    def beat(self, beat: Beat, sight: Sight, now: float) -> Sequence[Incident]:
        trip = beat.round_trip_s
        if trip is None:
            return ()
        usual = median(self._usual[beat.host] or [0.0])
        if trip < max(_LONG_S, _FACTOR * usual):
            self._usual[beat.host].append(trip)
            self._long[beat.host] = 0
            sight.slow_links.discard(beat.host)
            return ()
        self._long[beat.host] += 1
        if self._long[beat.host] != _IN_A_ROW:
            return ()
        sight.slow_links.add(beat.host)
        detail = f"a round trip to the driver takes {trip * 1e3:.0f} ms, usually {usual * 1e3:.1f}"
        return (Incident(cause=Cause.LINK, recover=False, hosts=(beat.host,), detail=detail),)

    def look(self, sight: Sight, now: float) -> Sequence[Incident]:
        """Nothing: round trips come with heartbeats."""
        return ()
