"""Heartbeats that say nothing new are not sent one by one: their effect on a driver is put in.

A heartbeat without news does two things to a driver: it notes when the host was last heard of, and
what copies it holds. Both are done here for all hosts at once. A test sends every heartbeat of a
small job instead, and gets the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.resilience.driver import Driver
    from engine.resilience.rules.rule import Sight
    from engine.simulation.train.host import SimulatedHost


def sight_of(driver: Driver) -> Sight | None:
    """What the driver's rules see; None while no ranks train."""
    return driver._watch.sight if driver._watch is not None else None


def heartbeats(driver: Driver, hosts: Iterable[SimulatedHost], now: float) -> None:
    """All hosts were heard of just now, but for those that are silent."""
    sight = sight_of(driver)
    for host in hosts:
        known = driver.roster.get(host.name)
        if known is None or host.silent:
            continue
        known.heard_s, known.copies = now, host.copies
        if sight is not None:
            sight.beats[host.name] = now


def last_heartbeat(driver: Driver, host: SimulatedHost, now: float) -> None:
    """A host was heard of then, and will not be again."""
    sight = sight_of(driver)
    if sight is not None:
        sight.beats[host.name] = now
    if (known := driver.roster.get(host.name)) is not None:
        known.heard_s = now
