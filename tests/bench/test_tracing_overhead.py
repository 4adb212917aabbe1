"""The comparison of tracers measures what it says, and what is missing is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from collectors.record import Kind, kinds
from collectors.spool import SpoolReader
from opsuite.bench.tracing.overhead import OURS, rows_of
from opsuite.bench.tracing.traced_steps import SPANS_A_STEP
from opsuite.bench.tracing.tracers import TRACERS

if TYPE_CHECKING:
    from pathlib import Path


def test_a_worker_records_a_span_around_each_piece_of_its_steps(tmp_path: Path) -> None:
    spool = tmp_path / "run" / "spool"
    worker = [sys.executable, "-P", "-m", "opsuite.bench.tracing.traced_steps"]
    done = subprocess.run(
        [*worker, str(spool), str(tmp_path), "1", "-1"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    variants = {"", *TRACERS} - set(figures["missing"])
    assert {name: len(steps) for name, steps in figures["steps_s"].items()} == dict.fromkeys(
        variants, 5
    )
    assert {len(costs) for name, costs in figures["costs_ns"].items() if name} == {SPANS_A_STEP}
    batches = SpoolReader(spool).poll()
    spans = Counter(kind for batch in batches for kind in kinds(batch.records).tolist())[Kind.SPAN]
    assert spans == 2 * 6 * SPANS_A_STEP, "a turn to warm up and one to measure"


def test_rows_compare_each_tracer_with_none_and_tell_what_is_missing() -> None:
    figures = {
        "steps_s": {"": [0.020] * 5} | dict.fromkeys(TRACERS, [0.0202] * 5),
        "costs_ns": {"": []} | {name: [*range(1000, 2000)] for name in TRACERS},
        "missing": {"torch.profiler.record_function": "No module named 'torch'"},
    }
    rows = {row.name: row for row in rows_of(figures, "a note")}
    ours = rows[f"overhead: a step with 200 spans, p50, {OURS}, over none"]
    assert ours.ratio == pytest.approx(1.01)
    assert ours.met is True
    tail = rows[f"overhead: a span in such a step, p99.9, {OURS}"]
    assert tail.value == pytest.approx(1.998, abs=2e-3)
    assert [row.note for row in rows.values() if row.value is None] == [
        "not measured: No module named 'torch'"
    ]
