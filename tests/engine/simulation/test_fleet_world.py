"""A simulated fleet whose instances die: nobody is lost, answered twice or wrongly, or held up; and
the simulated world notices where that is not so."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.elastic.manager import Manager
from engine.elastic.registry import FLEET_POLICIES
from engine.serving.fleet.flight import Flight
from engine.serving.fleet.shared_text import SharedText
from engine.serving.fleet.texts import Texts
from engine.simulation.fleet_world.scenario import FleetFault
from engine.simulation.fleet_world.world import FleetWorld

if TYPE_CHECKING:
    from collections.abc import Callable

SEEDS = range(30)
WITHIN = range(60)


def test_seeds_keep_all_invariants_and_meet_all_faults() -> None:
    outcomes = [FleetWorld(seed).run() for seed in SEEDS]
    assert {each.seed: each.broken for each in outcomes if each.broken} == {}
    assert sum((each.faults for each in outcomes), Counter()).keys() == set(FleetFault)
    assert {each.policy for each in outcomes} == set(FLEET_POLICIES)
    assert max(each.widest for each in outcomes) == 4


def test_a_seed_decides_everything() -> None:
    assert FleetWorld(3).run() == FleetWorld(3).run()


def ends_though_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that lost an instance counts all the same."""
    monkeypatch.setattr(Flight, "torn", property(lambda _: False, lambda *_: None))


def forgets_who_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was withdrawn while it was computed keeps its slots."""
    monkeypatch.setattr(Manager, "_let_go", lambda *_: None)


def gives_up_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shared beginning is given up as soon as somebody has read it."""
    hold = SharedText.hold

    def held(self: SharedText, runs: Any, more: int) -> None:
        if more < 0:
            hold(self, runs, more)

    monkeypatch.setattr(SharedText, "hold", held)


def trusts_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lay on an instance that is gone counts as if it lay on the one that replaced it."""

    def lose(self: Texts, instance: int) -> None:
        del self._pools[instance]

    monkeypatch.setattr(Texts, "lose", lose)


@pytest.mark.parametrize(
    "plant", [ends_though_torn, forgets_who_left, gives_up_what_is_read, trusts_the_dead]
)
def test_planted_bugs_are_noticed(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(FleetWorld(seed).run().broken for seed in WITHIN)
