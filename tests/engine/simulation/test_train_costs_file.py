"""Measured costs from a file: what it does not give is called assumed, what is wrong is told."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from collectors.errors import DataError, UsageError
from engine.simulation.train.costs_file import read_costs
from engine.simulation.train.practices import OURS

if TYPE_CHECKING:
    from pathlib import Path


def write(tmp_path: Path, given: Any) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(given if isinstance(given, str) else json.dumps(given))
    return path


def test_what_is_given_and_what_is_not(tmp_path: Path) -> None:
    given = {
        "step_s": 0.25,
        "start_s": [3, 4.5],
        "stop_s": 1,
        "replenish_s": None,
        "config": {"accused_most": 9},
        "sources": {"step_s": "measured: a run"},
    }
    costs = read_costs(write(tmp_path, given))
    assert (costs.step_s, costs.start_s, costs.stop_s) == (0.25, (3.0, 4.5), (1.0, 1.0))
    assert costs.replenish_s is None
    assert costs.snapshot_every == OURS.snapshot_every
    assert costs.sources["step_s"] == "measured: a run"
    assert costs.sources["start_s"] == "given: costs.json"
    assert "check_s" in costs.assumed
    assert "step_s" not in costs.assumed
    assert costs.configure(2).accused_most == 9
    assert costs.name == "costs"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{", "not JSON"),
        ([1], "not a JSON object"),
        ({"stepp_s": 1}, "stepp_s"),
        ({"base": "theirs"}, "theirs"),
        ({"step_s": "quick"}, "step_s"),
        ({"step_s": 0}, "step_s"),
        ({"start_s": [4, 3]}, "start_s"),
        ({"stop_s": -1}, "stop_s"),
        ({"config": {"accused_least": 9}}, "accused_least"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, given: Any, says: str) -> None:
    path = write(tmp_path, given)
    with pytest.raises(DataError) as caught:
        read_costs(path)
    assert says in caught.value.what
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        read_costs(tmp_path / "none.json")
