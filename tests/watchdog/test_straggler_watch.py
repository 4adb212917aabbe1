"""Which slow ranks a running job is told of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from opsuite.straggler_watch import slow_now
from playbooks.step_times import StepTimes

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 120


def run(slow: slice, *, waits: bool) -> StepTimes:
    """Rank 2 of four takes twice as long in some steps, and waits for its core meanwhile."""
    rng = np.random.default_rng(1)
    usual = np.exp(rng.normal(0, 0.05, (STEPS, 4)))
    wait: NDArray[np.float64] = np.zeros_like(usual)
    own = {"forward": 0.03 * usual, "backward": 0.06 * usual}
    for values in own.values():
        wait[slow, 2] += values[slow, 2] if waits else 0.0
        values[slow, 2] *= 2
    times = StepTimes(
        run_id="r",
        steps=np.arange(1, STEPS + 1),
        ranks=np.arange(4),
        hosts=("h",) * 4,
        duration=np.zeros_like(usual),
        own=own,
        blocked=np.zeros_like(usual),
        run_queue_wait=wait,
        cpu_time=0.09 * usual,
        throttled=np.zeros_like(usual),
        garbage=np.zeros_like(usual) if waits else wait,
    )
    return replace(times, duration=times.work.max(axis=1, keepdims=True) * np.ones_like(usual))


@pytest.mark.parametrize(("slow", "told"), [(slice(60, 120), [(2,)]), (slice(30, 60), [])])
def test_a_rank_is_told_of_while_it_is_slow(slow: slice, told: list[tuple[int]]) -> None:
    assert [finding.ranks for finding in slow_now(run(slow, waits=True))] == told


def test_what_another_host_would_not_help_is_not_told() -> None:
    times = run(slice(60, 120), waits=False)
    garbage = times.work - 0.09
    assert not slow_now(replace(times, garbage=np.where(garbage > 0.05, garbage, 0.0)))


def test_a_run_without_steps_has_no_slow_rank() -> None:
    times = run(slice(0, 0), waits=False)
    assert not slow_now(times.without_first(STEPS))
