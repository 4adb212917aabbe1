"""Every bug that is planted is caught: what the simulation does not see, it does not prove."""

from __future__ import annotations

import pytest

from engine.simulation.planted.bugs import BUGS, SHOWN_BY, catch
from engine.simulation.world.world import World

_WITHIN = 3_000
"""Seeds, should the one that showed a bug when it was planted do so no more."""


def test_there_are_enough_bugs() -> None:
    assert len(BUGS) >= 20
    assert set(SHOWN_BY) == set(BUGS)


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_caught(name: str) -> None:
    outcome = catch(name, (SHOWN_BY[name], *range(_WITHIN)))
    assert outcome is not None


@pytest.mark.parametrize("seed", sorted(set(SHOWN_BY.values())))
def test_the_shipped_code_passes_where_bugs_are_caught(seed: int) -> None:
    assert World(seed).run().broken == ""
