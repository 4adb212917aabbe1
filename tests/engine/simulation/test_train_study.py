"""What would help most: changes go the way they must, and every assumption is among them."""

from __future__ import annotations

import pytest

from engine.simulation.interruptions import LLAMA3
from engine.simulation.train.costs import COSTS, Costs
from engine.simulation.train.estimate import Estimate
from engine.simulation.train.failures import Load
from engine.simulation.train.practices import MEGASCALE, OURS
from engine.simulation.train.scale import Scale
from engine.simulation.train.study import FAILURES, KNOBS, Studies

WORSE_WHEN_MORE = {
    MEGASCALE.name: (FAILURES, "restart time", "self-check time", "detection time"),
    OURS.name: (FAILURES, "restart time", "detection time", "snapshot's hold-up"),
}


def studies(days: float) -> Studies:
    scale = Scale(hosts=1536, gpus_per_host=8, duration_s=days * 86_400)
    return Studies(scale, Load(interruptions=LLAMA3, every_s=14_847.0), range(2))


@pytest.mark.parametrize("costs", [MEGASCALE, OURS])
def test_changes_go_the_way_they_must(costs: Costs) -> None:
    some = studies(2)
    changes = some.what_if(some.study(costs))
    gains = {(change.name, change.how): change.gain.value for change in changes}
    for name in WORSE_WHEN_MORE[costs.name]:
        assert gains[name, "halved"] > gains[name, "doubled"], name
        assert gains[name, "doubled"] <= 1e-6, name
    assert [c.gain.value for c in changes] == sorted(gains.values(), reverse=True)


@pytest.mark.parametrize("costs", [MEGASCALE, OURS])
def test_every_assumption_is_varied(costs: Costs) -> None:
    varied = {name for fields in KNOBS.values() for name in fields}
    numbers = {name for name in costs.assumed if not isinstance(getattr(costs, name), str)}
    assert numbers <= varied


@pytest.mark.parametrize("costs", [MEGASCALE, OURS])
def test_every_value_has_a_source(costs: Costs) -> None:
    for name in COSTS:
        assert costs.sources[name].startswith(("published: ", "assumed: ")), name


def test_ours_is_better_and_says_by_what() -> None:
    some = studies(2)
    theirs, ours = some.study(MEGASCALE), some.study(OURS)
    assert ours.effective.value > theirs.effective.value + 0.03
    taken = {change.name: change.gain.value for change in some.take_over(theirs, OURS)}
    assert taken["all of these"] == max(taken.values())
    assert taken["warm standbys"] > 0 < taken["copies in memory"]


def test_an_interval_is_students() -> None:
    found = Estimate.of([1.0, 2.0, 3.0])
    assert found.interval == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert Estimate.of([1.0]).interval is None
