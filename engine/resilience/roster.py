"""All hosts of a job: who is there, who is examined, who is left out and let in again."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from engine.resilience.cause import SUSPECT, Cause
from engine.resilience.hosts import Host
from engine.resilience.messages import Check
from engine.resilience.numbering import before_first

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from engine.resilience.cause import Incident
    from engine.resilience.config import ResilienceConfig
    from engine.resilience.effects import Outbox
    from engine.resilience.messages import Checked

_LONGEST_BLOCK_S = 24 * 3600.0


class Roster:
    """The hosts by name.

    A host that is left out gets in again when its time is over and a thorough examination finds
    nothing: no sound host is lost for ever. Only a person leaves one out for ever.
    """

    host_class = Host

    def __init__(self, config: ResilienceConfig, generation: int, outbox: Outbox) -> None:
        self._config = config
        self._generation = generation
        self._outbox = outbox
        self._checks = before_first(generation)
        self._hosts: dict[str, Host] = {}

    def __iter__(self) -> Iterator[Host]:
        return iter(self._hosts.values())

    def __getitem__(self, name: str) -> Host:
        """The host of this name, known from now on."""
        if name not in self._hosts:
            self._hosts[name] = self.host_class(name=name)
        return self._hosts[name]

    def get(self, name: str) -> Host | None:
        """The host of this name, if it is known."""
        return self._hosts.get(name)

    @property
    def here(self) -> list[Host]:
        """Those that are connected."""
        return [host for host in self if host.here]

    def suspect(self, incident: Incident, now: float, *, spare: bool = False) -> None:
        """Whom to examine after an incident, and whom to leave out at once.

        Args:
            spare: whether a host stands by, so that one with a slow link can be done without.
        """
        if incident.cause is Cause.PERSON:
            return
        for name in incident.hosts:
            host = self[name]
            if incident.cause is Cause.HOST_LOST:  # nobody else should be given it either
                self._drain(host, incident.detail)
            if host.accuse(now) > self._config.accused_most:
                self.block(host, f"{len(host.accused_s)} faults within an hour", now)
            elif incident.cause is Cause.SLOW or (incident.cause is Cause.LINK and spare):
                self.block(host, incident.detail, now)
            elif self._config.check != "never" and incident.cause in SUSPECT:
                host.suspect = str(incident.cause)

    def suspect_all(self, names: Iterable[str], why: str) -> None:
        """Have all of them examined."""
        for name in names:
            self[name].suspect = self[name].suspect or why

    def block(self, host: Host, why: str, now: float, *, for_ever: bool = False) -> None:
        """Leave it out: twice as long each time."""
        if host.blocked and host.blocked_until_s is None:
            return
        host.why_blocked = why
        seconds = min(self._config.block_s * 2**host.offences, _LONGEST_BLOCK_S)
        host.blocked_until_s = None if for_ever else now + seconds
        host.offences += 1
        host.suspect = ""
        host.accused_s.clear()
        self._outbox.note("host.blocked", host=host.name, why=why)
        self._drain(host, why)

    def examine(self) -> bool:
        """Have suspects examined; whether an examination goes on that could free one."""
        for host in self.here:
            if host.suspect and not (host.blocked or host.checking or host.running):
                self._check(host, thorough=False)
        return any(host.checking and not host.blocked for host in self)

    def reprieve(self, now: float) -> None:
        """The job waits for hosts: those that are left out for a time are examined before it is
        over, since they may be sound."""
        for host in self.here:
            waited = now - host.checked_s > self._config.check_s
            idle = not (host.checking or host.running)
            if host.blocked and host.blocked_until_s is not None and waited and idle:
                self._check(host, thorough=True)

    def tend(self, now: float) -> None:
        """What follows from the time: silence, examinations that do not end, blocks that do."""
        for host in self:
            if host.here and now - host.heard_s > self._config.lost_after_s:
                host.leave(now)
                self._outbox.note("host.left", host=host.name)
            if host.checking and not host.check_begun_s:
                host.check_begun_s = now
            elif host.checking and now - host.check_begun_s > self._config.check_s:
                host.checking, host.checked_s = 0, now
                self.block(host, "its examination did not end", now)
            over = host.blocked_until_s is not None and now >= host.blocked_until_s
            if host.blocked and over and host.here and not (host.checking or host.running):
                self._check(host, thorough=True)

    def conclude(self, checked: Checked, now: float) -> None:
        """An examination has ended; one that could not tell is no reason to leave a host out."""
        host = self.get(checked.host)
        if host is None or host.checking != checked.number:
            return
        host.checking, host.checked_s = 0, now
        self._outbox.note(
            "host.checked", host=host.name, sound=checked.sound, detail=checked.detail
        )
        if checked.sound is False:
            self.block(host, f"it failed its examination: {checked.detail}", now)
            return
        host.suspect = ""
        if host.blocked and host.blocked_until_s is not None:  # else a person decides
            host.why_blocked = ""
            host.accused_s.clear()
        if host.drained and not host.blocked:
            host.drained = False
            self._outbox.hook("undrain", host.name, "it passed its examination")

    def _drain(self, host: Host, why: str) -> None:
        """Once, until it may come back."""
        if not host.drained:
            host.drained = True
            self._outbox.hook("drain", host.name, why)

    def _check(self, host: Host, *, thorough: bool) -> None:
        self._checks += 1
        host.checking, host.check_begun_s = self._checks, 0.0
        order = Check(generation=self._generation, number=self._checks, thorough=thorough)
        self._outbox.tell(host.name, order)

    def to_json(self) -> dict[str, Any]:
        """Who they are, and who is left out or suspect, for the next driver."""
        return {
            host.name: [
                host.why_blocked,
                host.blocked_until_s,
                host.offences,
                host.suspect,
                list(host.accused_s),
                host.incarnation,
                host.drained,
            ]
            for host in self
        }

    def take_over(self, past: Mapping[str, Any]) -> None:
        """Back from data."""
        for name, facts in past.items():
            host = self[name]
            host.why_blocked, host.blocked_until_s, host.offences, host.suspect = facts[:4]
            host.accused_s = deque(facts[4])
            host.incarnation, host.drained = facts[5:]
            host.known = {host.incarnation}
