"""Makes a bundle as the present version writes it, with what a reader must find in it.

Run once for each released format, and keep what it made: ``python tests/formats/make_bundle.py
tests/formats/bundle-v1``. The tests read all of them for ever.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from collectors.bundle.importer import import_bundle
from collectors.bundle.writer import write_bundle
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from collectors.store.sole_collector import sole_collector

QUESTIONS = (
    "SELECT name, kind, status, world_size, steps, loss, tags FROM runs",
    "SELECT rank, host, tp FROM ranks ORDER BY rank",
    "SELECT rank, name, step, duration_s FROM spans ORDER BY ALL",
    'SELECT rank, name, "group", group_size, sequence, size_bytes, blocked_s FROM collectives '
    "ORDER BY ALL",
    "SELECT rank, name, step, value FROM samples ORDER BY ALL",
    "SELECT rank, name, attributes FROM events ORDER BY ALL",
)


def record(run: RunDirectory, rank: int) -> None:
    """Two steps of one rank, with each kind of record."""
    recorder = open_recorder(
        run.spool,
        Identity(
            run_id=run.run_id,
            role="trainer",
            rank=rank,
            world_size=2,
            host="node",
            coordinates={"tp": rank},
        ),
    )
    for step in range(2):
        start = step * 10**9
        recorder.record_span("step", start, start + 5 * 10**8, step)
        recorder.record_span("forward", start, start + (rank + 1) * 10**8, step)
        recorder.collective(
            "all_reduce",
            group="tp[0,1]",
            group_size=2,
            sequence=step,
            size_bytes=1024,
            start_ns=start + (rank + 1) * 10**8,
            end_ns=start + 3 * 10**8,
            step=step,
        )
        recorder.sample("loss", 4.0 - step, step)
    recorder.event("note", attributes={"text": "grüße"})
    recorder.close()


def main(target: Path) -> None:
    """Write ``run.opsuite.zip`` and ``expected.json`` into ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    bundle = target / "run.opsuite.zip"
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        run = RunDirectory.create(
            home,
            name="fixture",
            kind="training",
            command=["opsuite", "launch"],
            config={"train": {"steps": 2}},
            world_size=2,
        )
        for rank in (0, 1):
            record(run, rank)
        (run.logs / "rank0.log").write_text("step 0\nstep 1\n")
        run.finish("finished", 0)
        with sole_collector(home) as collector:
            collector.seal(force=True)
            write_bundle(home, run, bundle)
        import_bundle(Path(name) / "other", bundle)
        with Store.open(Path(name) / "other") as store:
            answers = {sql: store.rows(sql) for sql in QUESTIONS}
    text = json.dumps(answers, indent=1, ensure_ascii=False)
    (target / "expected.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
