"""Checkpoints in closed form: J. T. Daly, "A higher order estimate of the optimum checkpoint
interval for restart dumps" (2006), and J. W. Young's first-order optimum (1974).

Failures are exponential, and hit saving and starting again too.
"""

from __future__ import annotations

from math import expm1, sqrt


def expected_effective(*, work_s: float, save_s: float, restart_s: float, every_s: float) -> float:
    """Share of the time that is work, with a checkpoint of ``save_s`` after each ``work_s``.

    Args:
        restart_s: from a failure until the job goes on from its last checkpoint.
        every_s: mean time between failures.
    """
    rate = 1 / every_s
    wall_s = every_s * (1 + expm1(rate * restart_s)) * expm1(rate * (work_s + save_s))
    return work_s / wall_s


def best_interval_s(*, save_s: float, every_s: float) -> float:
    """Work between checkpoints with which the least is lost, to first order."""
    return sqrt(2 * save_s * every_s)
