"""From the store's views to findings, and how they read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pytest
from typer.testing import CliRunner

from collectors.run import RunDirectory
from opsuite.cli.main import app
from playbooks.diagnosis import Diagnosis, diagnose
from playbooks.finding import Confidence, Evidence, Finding
from playbooks.step_times import load_step_times
from tui.findings import render_diagnosis

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SCHEMA = """
CREATE TABLE ranks (run_id VARCHAR, rank INTEGER, host VARCHAR);
CREATE TABLE steps (run_id VARCHAR, rank INTEGER, step BIGINT, start_ns BIGINT,
                    duration_s DOUBLE, own_s DOUBLE, blocked_s DOUBLE,
                    run_queue_wait_s DOUBLE, cpu_time_s DOUBLE, throttled_s DOUBLE, gc_s DOUBLE);
CREATE TABLE phases (run_id VARCHAR, rank INTEGER, step BIGINT, start_ns BIGINT,
                     phase VARCHAR, own_s DOUBLE);
CREATE TABLE events (run_id VARCHAR, name VARCHAR, at_ns BIGINT, attributes VARCHAR);
"""


class Views:
    """The views that playbooks read, as tables filled by hand."""

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self.connection.execute(SCHEMA)

    def arrays(self, sql: str, parameters: Sequence[object] = ()) -> dict[str, NDArray[np.generic]]:
        return self.connection.execute(sql, list(parameters)).fetchnumpy()

    def add_run(self, run: str, *, steps: int, slow: range = range(0), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        for rank in (0, 1):
            self.connection.execute("INSERT INTO ranks VALUES (?, ?, ?)", [run, rank, "here"])
        self.add_steps(run, range(1, steps + 1), slow=slow, rng=rng)

    def add_steps(
        self, run: str, steps: range, *, slow: range, rng: np.random.Generator, start_ns: int = 0
    ) -> None:
        for step in steps:
            own = 0.1 * np.exp(rng.normal(0, 0.03, 2))
            own[1] *= 2 if step in slow else 1
            for rank in (0, 1):
                blocked = own.max() - own[rank]
                at_ns = start_ns + step
                row = [run, rank, step, at_ns, own.max(), own[rank], blocked, None, None]
                self.connection.execute(
                    "INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL)", row
                )
                phase = [run, rank, step, at_ns, "forward", own[rank]]
                self.connection.execute("INSERT INTO phases VALUES (?, ?, ?, ?, ?, ?)", phase)


def test_finding_comes_with_sql_that_shows_it() -> None:
    views = Views()
    views.add_run("other", steps=60)
    views.add_run("it's", steps=100, slow=range(40, 61))
    diagnosis = diagnose(views, "it's")
    (finding,) = diagnosis.findings
    assert (finding.ranks, finding.hosts, finding.phase) == ((1,), ("here",), "forward")
    rows = views.connection.execute(finding.sql).fetchall()
    inside = [row for row in rows if finding.first_step <= row[0] <= finding.last_step]
    assert all(rank_1 > 1.5 * others for _, rank_1, others, _ in inside)
    assert rows[0][0] < finding.first_step
    assert rows[-1][0] > finding.last_step


def test_finding_as_data_is_json() -> None:
    views = Views()
    views.add_run("run", steps=100, slow=range(40, 61))
    data = json.loads(json.dumps(diagnose(views, "run").to_json(), allow_nan=False))
    assert data["inputs"] == ["run"]
    assert data["findings"][0]["ranks"] == [1]
    assert data["findings"][0]["kind"] == "straggler"
    assert abs(data["findings"][0]["steps"][0] - 40) <= 1


def test_report_leads_with_the_culprit_and_healthy_runs_say_so() -> None:
    views = Views()
    views.add_run("slow", steps=100, slow=range(40, 61))
    views.add_run("healthy", steps=100)
    report = render_diagnosis(diagnose(views, "slow"))
    assert "[1] straggler: rank 1 on here, steps 40-60" in report
    assert "opsuite query" in report
    assert "no findings" in render_diagnosis(diagnose(views, "healthy"))


def test_steps_that_a_rank_did_not_finish_are_left_out() -> None:
    views = Views()
    views.add_run("killed", steps=20)
    views.connection.execute("DELETE FROM steps WHERE rank = 1 AND step > 15")
    times = load_step_times(views, "killed")
    assert times.steps.tolist() == list(range(1, 16))
    assert np.isfinite(times.work).all()


def test_of_steps_done_twice_the_last_time_counts() -> None:
    views = Views()
    views.add_run("resumed", steps=60, slow=range(41, 61))
    again = np.random.default_rng(1)
    views.add_steps("resumed", range(41, 101), slow=range(0), rng=again, start_ns=10**9)
    times = load_step_times(views, "resumed")
    assert times.steps.tolist() == list(range(1, 101))
    assert diagnose(views, "resumed").findings == ()


def test_run_without_steps_has_no_findings() -> None:
    diagnosis = diagnose(Views(), "served-only")
    assert (diagnosis.findings, diagnosis.steps) == ((), 0)
    assert "nothing to compare" in render_diagnosis(diagnosis)


def told(kind: str, confidence: Confidence) -> Finding:
    return Finding(
        kind=kind,
        ranks=(1,),
        hosts=("here",),
        phase="all_reduce",
        cause="lock",
        first_step=7,
        last_step=7,
        slowdown=None,
        share_lost=0.5,
        confidence=confidence,
        evidence=(Evidence(what="silence", value=16.0, against="", baseline=None, unit="s"),),
        sql="SELECT 1",
        action="look",
    )


def test_a_hang_that_was_told_is_a_finding_of_the_run_ever_after() -> None:
    views = Views()
    hang = told("hang", Confidence.CERTAIN)
    for at_ns, text in enumerate([json.dumps(hang.to_json()), '{"kind": "hang"}', "nonsense"]):
        row = ["r", "finding", at_ns, text]
        views.connection.execute("INSERT INTO events VALUES (?, ?, ?, ?)", row)
    diagnosis = diagnose(views, "r")
    assert diagnosis.findings == (hang,)
    assert "hang: rank 1 on here, step 7" in render_diagnosis(diagnosis)
    assert "silence: 16.0 s" in render_diagnosis(diagnosis)


@pytest.mark.parametrize(
    ("confidence", "code"),
    [(Confidence.POSSIBLE, 0), (Confidence.LIKELY, 1), (Confidence.CERTAIN, 1)],
)
def test_what_is_only_possible_is_told_and_fails_no_script(
    confidence: Confidence, code: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.create(
        home, name="crowded", kind="training", command=["train"], config={}, world_size=1
    )
    findings = (told("host_contention", confidence),)
    found = Diagnosis(run_id=run.run_id, findings=findings, steps=9, ranks=2, wall_s=1.0)
    monkeypatch.setattr("playbooks.diagnosis.diagnose", lambda *_: found)
    answer = CliRunner().invoke(app, ["diagnose"])
    assert answer.exit_code == code, answer.output
    assert f"({confidence})" in answer.stdout
