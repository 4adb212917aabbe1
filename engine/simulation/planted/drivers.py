"""Drivers with something wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from engine.resilience.driver import Driver
from engine.resilience.phase import Phase

if TYPE_CHECKING:
    from engine.resilience.cause import Incident
    from engine.resilience.hosts import Host
    from engine.resilience.messages import Ended, Place
    from engine.resilience.recovery_point import RecoveryPoint


class DoesNotAwaitStop(Driver):
    """A new attempt begins while ranks of the old one may still run."""

    def _await_stop(self, now: float) -> None:
        self._gather(now)


class NoFence(Driver):
    """Hosts that are out of reach are taken to have no ranks."""

    def _await_stop(self, now: float) -> None:
        here = [self.roster[name] for name in self.course.hosts if self.roster[name].here]
        waited = now - self.since_s
        if all(host.stopped >= self.attempt for host in here) or waited > self.config.stop_s:
            self._gather(now)


class NumbersAnew(Driver):
    """Two drivers give the same number to different attempts."""

    def _next_attempt(self) -> int:
        return self.attempt + 1


class TakesAnyEnd(Driver):
    """The end of an attempt that was given up is taken for the end of the one that runs."""

    def _note_end(self, ended: Ended, now: float) -> None:
        super()._note_end(replace(ended, attempt=self.attempt), now)


class NeverRepeats(Driver):
    """An order that was lost is not given again."""

    def _reconcile(self, host: Host, now: float) -> None:
        return


class ForgetsRelease(Driver):
    """Executors are not told that the job is over."""

    def _release(self, host: str) -> None:
        return


class EndsOnce(Driver):
    """A driver that ends before it has told the end of the job leaves it untold."""

    def _tell_end_again(self) -> None:
        return


class TakesWrongPeer(Driver):
    """Ranks are sent for their copies to the host after the one that holds them."""

    def _start(self, places: tuple[Place, ...], point: RecoveryPoint, now: float) -> None:
        holders = (*point.holders[1:], *point.holders[:1])
        super()._start(places, replace(point, holders=holders), now)


class StartsEarly(Driver):
    """Nobody waits for a host that has lost its connection, though it holds the newest copies."""

    def _try_start(self, now: float) -> None:
        self.since_s -= self.config.lost_after_s + 1.0
        super()._try_start(now)


class DeafWhileStopping(Driver):
    """What the numbers say while an attempt is being ended is not listened to."""

    def _find(self, incident: Incident, now: float) -> None:
        if self.phase is not Phase.STOPPING:
            super()._find(incident, now)
