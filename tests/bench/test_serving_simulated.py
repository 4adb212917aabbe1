"""The campaign of simulated serving: its critical load, its rows, and going on where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from opsuite.bench import serving_simulated
from opsuite.bench.serving_simulated import measure, meets
from opsuite.bench.simulated_cells import Cells, Point
from opsuite.shared_data import COSTS, find_shared

if TYPE_CHECKING:
    from pathlib import Path

needs_costs = pytest.mark.skipif(find_shared(COSTS) is None, reason="no measured costs are here")


def test_the_critical_load_is_found_where_there_is_one() -> None:
    assert meets(lambda load: 0.02 / max(1.2 - load, 1e-3)) == pytest.approx(1.0, abs=0.01)
    assert meets(lambda _: 0.01) == pytest.approx(1.5, abs=0.01)
    assert meets(lambda _: 1.0) == pytest.approx(0.5, abs=0.01)


@needs_costs
def test_a_campaign_compares_all_with_fcfs_and_keeps_what_it_has(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serving_simulated, "REQUESTS", 40)
    monkeypatch.setattr(serving_simulated, "CAPS", (16,))
    monkeypatch.setattr(serving_simulated, "LOADS", (0.5,))
    monkeypatch.setattr(serving_simulated, "WORKLOADS", (("sharegpt-like", 1.0),))
    rows = {row.name: row for row in measure(2)}
    aimed = rows["sharegpt-like, cap 16, at 0.1 s a token: skip-join-mlfq, JCT a token"]
    assert aimed.target == ">= 1.4 x better than FCFS"
    assert aimed.rounds == 2
    ours = rows["sharegpt-like, cap 16, at 0.5: adaptive, JCT"]
    assert ours.ratio == pytest.approx(1.0, abs=0.2)
    assert "P99" in ours.note
    worst = rows["adaptive: mean JCT at loads 0.5 to 0.5"]
    assert worst.rounds == 2
    assert worst.value == max(ours.interval or ())
    assert any("orca" in name for name in rows)
    assert any("skip-join-mlfq (reactive)" in name for name in rows)
    assert "seed 1: orca" in capsys.readouterr().err
    assert {row.name: row for row in measure(2)} == rows
    assert "seed" not in capsys.readouterr().err.replace("results so far", "")
    assert list((home / "bench" / "serving-simulated").iterdir())


@needs_costs
def test_seeds_and_caps_are_cells_of_their_own(home: Path) -> None:
    cells = Cells()
    found = {
        (cap, seed): cells.capacity(
            Point(workload="alpaca-like", max_batch=cap, seed=seed, requests=30)
        )
        for cap in (2, 8)
        for seed in (0, 1)
    }
    assert len(set(found.values())) == 4
    assert found[8, 0] > found[2, 0]
