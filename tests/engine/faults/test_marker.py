"""One process claims a strike, and only one, whatever restarts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.faults.marker import Marker, forget_strikes, markers_of

if TYPE_CHECKING:
    from pathlib import Path


def test_one_of_many_claims_it(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda _: Marker(markers_of(tmp_path), "0").claim(), range(32)))
    assert sum(claims) == 1
    assert (tmp_path / "faults" / "0.struck").exists()


def test_a_fault_that_lasts_is_over_when_it_says_so(tmp_path: Path) -> None:
    marker = Marker(markers_of(tmp_path), "0")
    assert marker.claim()
    assert not Marker(markers_of(tmp_path), "0").has_ended
    marker.end()
    marker.end()
    assert Marker(markers_of(tmp_path), "0").has_ended


def test_faults_that_are_asked_for_anew_may_strike(tmp_path: Path) -> None:
    assert Marker(markers_of(tmp_path), "0").claim()
    forget_strikes(tmp_path)
    assert Marker(markers_of(tmp_path), "0").claim()
