"""Trainers that do things their own way end as ever when they are watched."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from collectors.query.direct import Store
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.odd import ODD, examine
from opsuite.bench.watchers.trial import ONE_THREAD, OPSUITE

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch", reason="needs the engine extra")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the trainers run on Linux")

_FLOORS = ("collectors", "engine", "playbooks", "tui")
_SCRIPT = """
import os
import torch
import collectors, engine, playbooks, tui

model = torch.nn.Linear(4, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
if os.environ.get("WATCH"):
    import opsuite
    opsuite.watch(model, optimizer)
for _ in range(12):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()

import engine.late
for package in (collectors, engine, playbooks, tui, engine.late):
    assert package.MINE, package
print("all mine")
"""


@pytest.mark.parametrize(("name", "way"), [("raising", "run"), ("spawned", "watch")])
def test_odd_trainer_ends_as_ever_and_its_steps_are_recorded(
    name: str, way: str, home: Path
) -> None:
    [odd] = [each for each in ODD if each.name == name]
    assert examine(odd, way) == ""


@pytest.mark.parametrize("way", ["watch", pytest.param("run", marks=pytest.mark.slow)])
def test_trainer_beside_packages_with_our_names_keeps_its_own(
    way: str, tmp_path: Path, home: Path
) -> None:
    folder = tmp_path / "project"
    for floor in _FLOORS:
        (folder / floor).mkdir(parents=True)
        (folder / floor / "__init__.py").write_text("MINE = True\n")
    (folder / "engine" / "late.py").write_text("MINE = True\n")
    (folder / "train.py").write_text(_SCRIPT)
    before = [*OPSUITE, "run", "--"] if way == "run" else []
    here = {"OPSUITE_HOME": str(home), **ONE_THREAD} | ({"WATCH": "1"} if way == "watch" else {})
    with Job([*before, sys.executable, "train.py"], folder, here) as job:
        assert job.wait(60) == 0, job.text
    assert "all mine" in job.text
    assert "not watched" not in job.text, job.text
    with Store.open(home) as store:
        [(steps,)] = store.rows("SELECT count(*) FROM steps WHERE rank = 0")
    assert steps in (11, 12)  # by `run`, watching begins with the first step of the optimizer
