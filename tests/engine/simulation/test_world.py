"""The driver and the executors hold their invariants in a simulated world, whatever goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from engine.simulation.campaign import run_campaign
from engine.simulation.world.scenario import Fault, draw
from engine.simulation.world.world import World

_SEEDS = 500


def test_no_invariant_breaks_in_hundreds_of_seeds_and_every_job_ends_well() -> None:
    tally = run_campaign(_SEEDS)
    assert tally.broken == {}
    assert tally.seeds == _SEEDS
    assert set(tally.statuses) == {"finished", "failed"}
    assert set(tally.faults) == set(Fault), "each kind of fault strikes"
    assert len(tally.tainted) < _SEEDS / 100


def test_at_least_half_of_all_seeds_have_at_most_one_kind_of_fault() -> None:
    kinds = Counter(len(draw(seed).every_s) for seed in range(1000))
    assert kinds[0] + kinds[1] > 500


def test_a_seed_gives_the_same_trace_whatever_the_order_of_sets() -> None:
    code = (
        "from engine.simulation.world.world import World\n"
        "print([World(seed, traced=True).run().trace for seed in range(40, 60)])"
    )
    traces = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20 * 64


def test_different_seeds_give_different_traces() -> None:
    traces = {World(seed, traced=True).run().trace for seed in range(10)}
    assert len(traces) == 10


@pytest.mark.parametrize("seed", [s for s in range(200) if draw(s).fails_at][:5])
def test_a_rank_that_fails_every_time_ends_its_job_with_the_reason(seed: int) -> None:
    outcome = World(seed).run()
    assert not outcome.broken
    assert outcome.status == "failed"
    assert outcome.reason.startswith("crash loop: 5 faults without progress")
    assert "ValueError: this batch" in outcome.reason
