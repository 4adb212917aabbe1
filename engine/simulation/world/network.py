"""Connections between executors and drivers, as TCP has them: what arrives, arrives in order.

A partition delays what is sent into it until it is over, as retransmission does; whoever waits too
long closes its end. What an end has sent before it closed may still arrive, also after a newer
connection has been made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from engine.simulation.timeline import Timeline

_LATENCY_S = (0.001, 0.08)
LINGERS_S = 60.0
"""At most so long a closed connection still brings orders."""


@dataclass(slots=True, kw_only=True)
class Link:
    """The way between one host and the driver's.

    Attributes:
        up_s, down_s: until then nothing comes through to the driver, to the host.
    """

    up_s: float = 0.0
    down_s: float = 0.0
    count: int = 0
    connections: list[Connection] = field(default_factory=list)


class Connection:
    """One connection.

    Attributes:
        number: of connections between the same two, the later have the greater.

    Args:
        lost: called at the executor's end when the connection breaks.
        ended: called at the driver's end when it hears that the connection has ended.
    """

    def __init__(
        self,
        timeline: Timeline,
        chance: Random,
        link: Link,
        *,
        lost: Callable[[Connection], None],
        ended: Callable[[Connection], None],
    ) -> None:
        self._timeline = timeline
        self._chance = chance
        self._link = link
        self._lost = lost
        self._ended = ended
        self._up_s = 0.0
        self._down_s = 0.0
        self._heard_above = True
        self._heard_below = True
        self._open = True
        self.number = link.count = link.count + 1
        link.connections.append(self)

    def up(self, do: Callable[[], None]) -> None:
        """Send to the driver: ``do`` happens when it arrives, if it does."""
        if self._open:
            self._climb(do)

    def down(self, do: Callable[[], None]) -> None:
        """Send to the executor."""
        arrival = max(self._timeline.now, self._link.down_s) + self._chance.uniform(*_LATENCY_S)
        self._down_s = max(self._down_s, arrival)
        self._timeline.at(self._down_s, lambda: self._fall(do))

    def close(self) -> None:
        """The executor gives it up; the driver hears of it after all that was sent before."""
        if not self._open:
            return
        self._open = False
        self._link.connections.remove(self)
        lingers_s = self._chance.uniform(0.0, LINGERS_S) if self._chance.random() < 0.3 else 0.0
        self._timeline.after(lingers_s, self._deafen)
        self._climb(self._end)

    def snap(self) -> None:
        """It breaks; what is under way to the driver may be lost."""
        if not self._open:
            return
        self.close()
        if self._chance.random() < 0.5:
            self._heard_above = False
            self._timeline.after(self._chance.uniform(0.0, 2.0), self._end)
        self._timeline.after(self._chance.uniform(0.0, 1.0), lambda: self._lost(self))

    def _climb(self, do: Callable[[], None]) -> None:
        arrival = max(self._timeline.now, self._link.up_s) + self._chance.uniform(*_LATENCY_S)
        self._up_s = max(self._up_s, arrival)
        self._timeline.at(self._up_s, lambda: self._rise(do))

    def _rise(self, do: Callable[[], None]) -> None:
        if self._heard_above:
            do()

    def _fall(self, do: Callable[[], None]) -> None:
        if self._heard_below:
            do()

    def _deafen(self) -> None:
        self._heard_below = False

    def _end(self) -> None:
        self._ended(self)
