"""What a driver knows of its hosts, with something wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.resilience.driver import Driver
from engine.resilience.hosts import Host
from engine.resilience.roster import Roster

if TYPE_CHECKING:
    from engine.resilience.cause import Incident
    from engine.resilience.messages import Beat, Checked, Hello


class _BlocksForEver(Roster):
    def block(self, host: Host, why: str, now: float, *, for_ever: bool = False) -> None:
        super().block(host, why, now, for_ever=True)


class BlocksForEver(Driver):
    """A host that was left out stays out."""

    roster_class = _BlocksForEver


class _NeverLetsIn(Roster):
    def tend(self, now: float) -> None:
        for host in self:
            if host.blocked and host.blocked_until_s is not None:
                host.checked_s = now  # as if an examination had just ended
                host.blocked_until_s = max(host.blocked_until_s, now + 1.0)
        super().tend(now)


class NeverLetsIn(Driver):
    """The time of a host that is left out does not end."""

    roster_class = _NeverLetsIn


class _TakesAnyVerdict(Roster):
    def conclude(self, checked: Checked, now: float) -> None:
        host = self.get(checked.host)
        if host is not None and host.checking:
            checked = replace(checked, number=host.checking)
        super().conclude(checked, now)


class TakesAnyVerdict(Driver):
    """The verdict of an old examination is taken for that of the last."""

    roster_class = _TakesAnyVerdict


class _NeverHurries(Roster):
    def suspect(self, incident: Incident, now: float, *, spare: bool = False) -> None:
        super().suspect(incident, now, spare=spare)
        for name in incident.hosts:
            self[name].suspect = self[name].suspect or str(incident.cause)

    def examine(self) -> bool:
        return False


class NeverExamines(Driver):
    """Suspects wait for an examination that nobody begins."""

    roster_class = _NeverHurries


class _KeepsCopies(Host):
    def greet(self, hello: Hello, now: float) -> None:
        before = self.copies
        super().greet(hello, now)
        self.copies = (*before, *hello.copies)

    def hear(self, beat: Beat, now: float) -> bool:
        before = self.copies
        super().hear(beat, now)
        self.copies = tuple(dict.fromkeys((*before, *beat.copies)))
        return True

    def leave(self, now: float) -> None:
        before = self.copies
        super().leave(now)
        self.copies = before


class _RosterKeepsCopies(Roster):
    host_class = _KeepsCopies


class CountsLostCopies(Driver):
    """Copies that went with an executor are still counted."""

    roster_class = _RosterKeepsCopies


class _AnySlots(Host):
    def usable(self, slots: int) -> bool:
        return super().usable(0)


class _RosterOfAnySlots(Roster):
    host_class = _AnySlots


class UsesSmallHost(Driver):
    """A standby gets more ranks than it has slots."""

    roster_class = _RosterOfAnySlots


class _Unblocked(Host):
    def usable(self, slots: int) -> bool:
        return self.here and not self.checking and self.slots >= slots


class _RosterUnblocked(Roster):
    host_class = _Unblocked


class UsesEvictedHost(Driver):
    """A host that was left out gets ranks."""

    roster_class = _RosterUnblocked


class _StaysGone(Host):
    def hear(self, beat: Beat, now: float) -> bool:
        return super().hear(beat, now) if self.here else False


class _RosterStaysGone(Roster):
    host_class = _StaysGone


class StaysGone(Driver):
    """A host is taken for gone for ever when an older connection of it ends late."""

    roster_class = _RosterStaysGone


class _StopsByBeat(Host):
    def hear(self, beat: Beat, now: float) -> bool:
        if not beat.attempt:
            self.stop(max(self.ordered[0], self.running))
        return super().hear(beat, now)


class _RosterStopsByBeat(Roster):
    host_class = _StopsByBeat


class StopsByBeat(Driver):
    """A heartbeat from before an order to start is taken to say that there are no ranks."""

    roster_class = _RosterStopsByBeat
