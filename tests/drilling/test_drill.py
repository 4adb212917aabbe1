"""A job that is struck three times ends as one that never was: real processes, real signals."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from collectors.errors import UsageError
from collectors.run import RunDirectory
from engine.simulation.train.costs_file import read_costs
from engine.simulation.train.practices import PRACTICES
from engine.training.config import RunConfig
from engine.training.launcher import launch
from opsuite.drilling.drill import Drill, check_drill, run_drill
from opsuite.drilling.outcome import Outcome, read_outcome, weights_of
from opsuite.drilling.small_job import SMALL_JOB
from opsuite.measured_costs import measured_costs

if TYPE_CHECKING:
    from pathlib import Path

STRUCK = (
    "sigkill:rank=1,step=12",
    "driver-kill:at_step=25",
    "executor-kill:at_step=35,host=host0",
)


def job(**sections: Any) -> RunConfig:
    small = {"parallel": {"tp": 1, "dp": 2}, "train": {"steps": 50}, "checkpoint": {"every": 0}}
    return resolve(RunConfig, [("small", SMALL_JOB), ("test", small), ("more", sections)]).value


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("home")
    return made


@pytest.fixture(scope="module")
def outcome(home: Path) -> Outcome:
    drilled = run_drill(
        Drill(config=job(), faults=STRUCK, standbys=0), home=home, narrate=lambda _: None
    )
    assert drilled.result.status == "finished", drilled.result.problem
    return read_outcome(home, drilled)


@pytest.mark.slow
def test_it_ends_as_one_that_was_not_struck(outcome: Outcome, home: Path) -> None:
    plain = launch(
        job(resilience={"recover": False, "hosts": 1}),
        home=home,
        command=["a", "test"],
        narrate=lambda _: None,
    )
    assert outcome.weights == weights_of(plain.run.path / "model") != ""


@pytest.mark.slow
def test_each_fault_was_struck_and_seen_as_what_it_was(outcome: Outcome) -> None:
    by_name = {each.fault: each for each in outcome.faults}
    assert {each.skipped for each in outcome.faults} == {""}
    assert by_name["sigkill"].causes[0] == "killed"
    assert by_name["sigkill"].accused[0] == "rank 1"
    assert by_name["executor-kill"].causes[0] == "executor lost"
    assert by_name["executor-kill"].accused[0] == "host0"
    detected = by_name["sigkill"].detected_after_s
    assert detected is not None and detected <= 2.0
    assert outcome.attempts == 3  # ranks went on without their driver, and the next one found them


@pytest.mark.slow
def test_the_ledger_closes(outcome: Outcome) -> None:
    assert outcome.gap <= 0.005
    assert abs(sum(outcome.spent_s.values()) - outcome.wall_s) <= 0.005 * outcome.wall_s
    assert min(outcome.spent_s.values()) >= 0
    assert outcome.spent_s["recomputation"] > 0


@pytest.mark.slow
def test_its_records_show_what_it_cost(outcome: Outcome, home: Path, tmp_path: Path) -> None:
    run = RunDirectory.load(home / "runs" / outcome.run_id)
    with open_store(home) as store:
        found = measured_costs(store, [run])
    file = tmp_path / "costs.json"
    file.write_text(json.dumps(found))
    costs = read_costs(file)
    assert 0 < costs.step_s * 50 < outcome.wall_s
    assert (costs.snapshot_every, costs.checkpoint_every_s) == (
        5,
        PRACTICES["ours"].checkpoint_every_s,
    )
    restarts = outcome.spent_s["restart"]
    assert 0.8 * restarts <= 2 * (costs.start_s[1] + costs.stop_s[1] + 0.5)
    assert costs.start_s[0] + costs.stop_s[0] <= restarts
    assert "step_s" not in costs.assumed


@pytest.mark.slow
def test_nothing_is_left_behind(outcome: Outcome, home: Path) -> None:
    import psutil

    run = RunDirectory.load(home / "runs" / outcome.run_id)
    assert run.manifest.status == "finished"
    time.sleep(0.2)
    left = [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(outcome.run_id in part for part in process.info["cmdline"] or ())
    ]
    assert left == []
    generations = sorted((run.path / "driver").glob("generation-*.json"))
    assert [json.loads(path.read_text())["generation"] for path in generations] == [1, 2]


def test_what_cannot_be_drilled_is_refused() -> None:
    with pytest.raises(UsageError, match="first fault"):
        check_drill(Drill(config=job(resilience={"recover": False})))
    with pytest.raises(UsageError, match="rank 7"):
        check_drill(Drill(config=job(), faults=("sigkill:rank=7,step=1",)))
    with pytest.raises(UsageError, match="no host hostX: the drill has host0, host1, host2"):
        check_drill(Drill(config=job(), faults=("network-cut:host=hostX,at_step=1,seconds=1",)))
    with pytest.raises(UsageError, match="unknown fault"):
        check_drill(Drill(config=job(), faults=("earthquake:step=1",)))
