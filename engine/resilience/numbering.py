"""Numbers that no two drivers of a job give twice.

A driver that was taken for dead may go on giving orders for a while. If it and the one that
replaced it numbered attempts (or examinations) alike, an executor could run the one's and be taken
to run the other's.
"""

from __future__ import annotations

PER_DRIVER = 10_000


def before_first(generation: int) -> int:
    """The number before a driver's first; a later driver's are all greater."""
    return (generation - 1) * PER_DRIVER
