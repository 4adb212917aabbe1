"""A simulated fleet whose instances die: nobody is lost, answered twice or wrongly, or held up."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.simulation.fleet_world.scenario import FleetFault
from engine.simulation.fleet_world.world import FleetWorld

SEEDS = 150


def test_seeds_keep_all_invariants_and_meet_all_faults() -> None:
    outcomes = [FleetWorld(seed).run() for seed in range(SEEDS)]
    assert {each.seed: each.broken for each in outcomes if each.broken} == {}
    assert sum((each.faults for each in outcomes), Counter()).keys() == set(FleetFault)
    assert {each.policy for each in outcomes} > {"esp", "replicas"}
    assert max(each.widest for each in outcomes) == 4


def test_equal_seeds_live_equal_lives() -> None:
    assert FleetWorld(3).run() == FleetWorld(3).run()
