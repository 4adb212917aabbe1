"""When a new attempt may begin beside what may be left of the one before.

Ranks step together or not at all: it is enough that one host has surely none of them any more. If
no host can be asked, each has ended its ranks by itself when it had not heard of a driver for
``orphan_s``. A driver that was replaced gives no orders for longer than ``lost_after_s``: whoever
runs it looks so often whether there is a newer one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.resilience.config import ResilienceConfig
    from engine.resilience.hosts import Host


def unstopped(hosts: Iterable[Host], attempt: int) -> list[Host]:
    """Hosts that are there and have not confirmed that no ranks are left."""
    return [host for host in hosts if host.here and host.stopped < attempt]


def may_go_on(
    hosts: Sequence[Host], attempt: int, waited_s: float, config: ResilienceConfig
) -> bool:
    """Whether ``attempt`` is surely over.

    Args:
        hosts: that had its ranks.
        waited_s: since they were told to end them.
    """
    if unstopped(hosts, attempt) and waited_s <= config.stop_s:
        return False
    over = not hosts or any(host.stopped >= attempt for host in hosts)
    return over or waited_s > config.orphan_s + config.stop_s + config.lost_after_s
