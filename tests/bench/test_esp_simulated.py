"""The campaign of simulated fleets: its rates, its verdicts, and going on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from engine.simulation.fleet.slo import OBJECTIVES
from opsuite.bench import esp_simulated
from opsuite.bench.esp_simulated import Found, fitted_rows, measure, verdicts

if TYPE_CHECKING:
    from pathlib import Path


def test_rates_of_all_policies_are_found_and_kept(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from engine.simulation.fleet import policies

    few = {name: policies.FLEET_POLICIES[name] for name in ("tp", "chunked", "replicas")}
    monkeypatch.setattr(policies, "FLEET_POLICIES", few)
    monkeypatch.setattr(esp_simulated, "WORKLOADS", {"lveval-like": (6, 0.1)})
    rows = {row.name: row for row in measure(2)}
    for policy in ("tp", "chunked"):
        row = rows[f"lveval-like, mean normalised latency <= 25x: {policy}"]
        assert row.value is not None
        assert row.interval is not None
        assert row.interval[0] <= row.value <= row.interval[1]
        assert "the paper's" in row.note
    assert "chunks of" in rows["lveval-like, P90 slowdown <= 5x: chunked"].note
    unable = rows["lveval-like: replicas"]
    assert unable.value is None
    assert "cannot serve" in unable.note
    kept = {path: path.stat().st_mtime_ns for path in (home / "bench").rglob("*.json")}
    assert kept
    again = {row.name: row for row in measure(2)}
    assert rows.keys() == again.keys()
    assert all(again[name] == row for name, row in rows.items() if "a decision" not in name)
    assert {path: path.stat().st_mtime_ns for path in (home / "bench").rglob("*.json")} == kept
    assert "requests/s" in capsys.readouterr().err


def test_the_model_keeps_its_bounds() -> None:
    rows = list(fitted_rows())
    assert len(rows) == 3
    assert all(row.met for row in rows)


def found(policy: str, *rates: float, workload: str = "leval-like") -> Found:
    return Found(workload=workload, policy=policy, objective=OBJECTIVES[0], variant="", rates=rates)


def test_the_elastic_policy_is_held_against_the_best_baseline_and_those_that_are_named() -> None:
    ours, chunked, best = found("esp", 3, 3.2), found("chunked", 2, 2), found("tp", 3.1, 3.1)
    rows = {row.name: row for row in verdicts([ours, chunked, best])}
    where = "leval-like, mean normalised latency <= 5x: esp beside"
    beside_best = rows[f"{where} the best baseline, tp"]
    assert beside_best.target == ">= 0.97 x"
    assert beside_best.ratio == pytest.approx((3 / 3.1 + 3.2 / 3.1) / 2)
    assert beside_best.met
    assert rows[f"{where} chunked"].met
    behind = {
        row.name: row
        for row in verdicts([found("esp", 2.9), found("chunked", 2.0), found("tp", 3.1)])
    }
    assert not behind[f"{where} the best baseline, tp"].met
    assert not behind[f"{where} chunked"].met
