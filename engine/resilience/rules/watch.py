"""The rule table of a running attempt: every rule sees every heartbeat."""

from __future__ import annotations

from collections import deque
from statistics import median
from typing import TYPE_CHECKING, Any

from engine.resilience.rules.keywords import Keywords
from engine.resilience.rules.link import Link
from engine.resilience.rules.numbers import Numbers
from engine.resilience.rules.overdue import Overdue
from engine.resilience.rules.rule import Sight
from engine.resilience.rules.silence import Silence
from engine.resilience.rules.traffic import Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.resilience.cause import Incident
    from engine.resilience.messages import Beat
    from engine.resilience.rules.rule import Attempt, Rule

_REMEMBERED = 32  # steps that tell how long one takes


class Watch:
    """Watches one attempt from when its first step begins.

    Args:
        repeated: by cause, where earlier attempts had a numeric fault: its step and hosts.
        norms: of gradients in earlier attempts.
    """

    def __init__(
        self, attempt: Attempt, repeated: Mapping[str, Sequence[Any]], norms: deque[float]
    ) -> None:
        self._rules: tuple[Rule, ...] = (
            Silence(attempt),
            Overdue(attempt),
            Numbers(attempt, repeated, norms),
            Keywords(attempt),
            Traffic(attempt),
            Link(attempt),
        )
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)
        self.sight = Sight(moved_s=attempt.begun_s, step=attempt.step)

    def beat(self, beat: Beat, now: float) -> list[Incident]:
        """A heartbeat of this attempt; gives what is wrong, the gravest rule first."""
        sight = self.sight
        sight.beats[beat.host] = now
        for state in beat.ranks:
            sight.ranks[state.rank] = state
        for done in beat.done:
            sight.moved_s = now
            sight.step = max(sight.step, done.step)
            self._seconds.append(done.seconds)
        if beat.done:
            sight.usual_s = median(self._seconds)
        return [found for rule in self._rules for found in rule.beat(beat, sight, now)]

    def look(self, now: float) -> list[Incident]:
        """Time has passed."""
        return [found for rule in self._rules for found in rule.look(self.sight, now)]
