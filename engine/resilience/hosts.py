"""A host as its driver knows it, and which hosts get which ranks."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.resilience.messages import Place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.resilience.messages import Beat, Copy, Hello

_ACCUSED_WITHIN_S = 3600.0


@dataclass(slots=True, kw_only=True)
class Host:
    """One of them.

    Attributes:
        here: whether its executor is connected.
        known: incarnations that it has had, this one among them.
        hellos: of those that this driver has heard.
        gone_s: since when it is not.
        heard_s: when it was last heard.
        running: the attempt whose ranks it says it runs; 0: none. It may not have heard of a newer
            one yet.
        stopped: the newest attempt of which it surely has no ranks, and will have none.
        ordered: the attempt that it was last told to start, and when.
        why_blocked: why it is left out, or "".
        blocked_until_s: until then; None: for ever. ``offences`` is how often it was.
        drained: whether the site was told to give it no other work.
        suspect: why it is to be examined before it gets ranks, or "".
        checking: number of the examination that is going on; 0: none.
        check_begun_s: since when; 0.0: that is still to be noted.
        checked_s: when the last one ended.
    """

    name: str
    incarnation: str = ""
    slots: int = 0
    address: str = ""
    here: bool = False
    gone_s: float = 0.0
    heard_s: float = 0.0
    running: int = 0
    stopped: int = 0
    ordered: tuple[int, float] = (0, 0.0)
    copies: tuple[Copy, ...] = ()
    why_blocked: str = ""
    blocked_until_s: float | None = 0.0
    offences: int = 0
    drained: bool = False
    suspect: str = ""
    checking: int = 0
    check_begun_s: float = 0.0
    checked_s: float = 0.0
    accused_s: deque[float] = field(default_factory=deque)
    known: set[str] = field(default_factory=set)
    hellos: dict[str, Hello] = field(default_factory=dict)

    def takes(self, incarnation: str) -> bool:
        """Whether an executor's word counts: one that was replaced may still be heard. If none is
        here, whoever is heard is."""
        replaced = incarnation in self.known and incarnation != self.incarnation
        return not (replaced and self.here)

    def greet(self, hello: Hello, now: float) -> None:
        """Its executor is there."""
        self.hellos[hello.incarnation] = hello
        self.known.add(hello.incarnation)
        self.here = True
        self.heard_s = now
        self.incarnation = hello.incarnation
        self.slots = hello.slots
        self.address = hello.address
        self.running = hello.attempt
        self.copies = hello.copies
        self.checking = 0

    def hear(self, beat: Beat, now: float) -> bool:
        """A heartbeat; whether it tells of other copies than the last.

        It is here even if it was taken for gone: what ended may have been an older connection.
        """
        self.here = True
        self.heard_s = now
        self.running = beat.attempt
        before, self.copies = self.copies, beat.copies
        return before != beat.copies

    def stop(self, attempt: int) -> None:
        """It has no ranks of attempts up to this one."""
        self.stopped = max(self.stopped, attempt)
        if self.running <= self.stopped:
            self.running = 0

    def leave(self, now: float) -> None:
        """Its executor is not there any more; what it holds cannot be had."""
        self.here = False
        self.gone_s = now
        self.running = 0
        self.copies = ()
        self.checking = 0

    def accuse(self, now: float) -> int:
        """A fault was its; gives how many were within the last hour."""
        self.accused_s.append(now)
        while self.accused_s[0] < now - _ACCUSED_WITHIN_S:
            self.accused_s.popleft()
        return len(self.accused_s)

    @property
    def blocked(self) -> bool:
        """Whether it is left out: also when its time is over, until it was examined."""
        return self.why_blocked != ""

    def usable(self, slots: int) -> bool:
        """Whether it can get so many ranks now."""
        out = self.blocked or self.suspect or self.checking
        return self.here and not out and self.slots >= slots


def assign(
    before: Sequence[Place], usable: Iterable[Host], hosts: int, ranks: int
) -> tuple[Place, ...] | None:
    """Places for ``ranks`` ranks on each of ``hosts`` hosts, or None where these are too few.

    Who had ranks before keeps them, since its copies are of these; others take what is left.
    """
    by_name = {host.name: host for host in usable}
    kept = {place.first // ranks: place.host for place in before if place.host in by_name}
    spare = sorted(by_name.keys() - set(kept.values()))
    places = []
    for index in range(hosts):
        if index not in kept and not spare:
            return None
        name = kept.get(index) or spare.pop(0)
        address = by_name[name].address
        places.append(Place(host=name, first=index * ranks, count=ranks, address=address))
    return tuple(places)
