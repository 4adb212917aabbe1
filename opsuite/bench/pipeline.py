"""The bubble of a pipeline, from the recorded waits of its ranks: pp = 2 on CPU.

With p ranks, v stages on each and m micro-batches it is (p - 1) / (v m) of the computing: four
times the batch makes it 75 % smaller. (MegaScale, section 3.1, says 87.5 %, which does not follow
from its formula.)
"""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import TYPE_CHECKING

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, interval_of
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.training.config import RunConfig

COUNTS = (4, 16)  # micro-batches
FALL, TOLERANCE = 0.75, 0.10
_STEPS = 5
_BUBBLES = """
WITH compute AS (
    SELECT rank, step, sum(duration_s) AS s FROM phases
    WHERE run_id = $run AND phase IN ('forward', 'backward') GROUP BY rank, step
)
SELECT sum(blocked_s) / sum(compute.s) FROM communication JOIN compute USING (rank, step)
WHERE run_id = $run AND axis = 'pp' AND step > 1 GROUP BY step
"""


def measure(rounds: int) -> list[Row]:
    """How much smaller the bubble is with four times the micro-batches, for v = 1 and 2."""
    rows: list[Row] = []
    for chunks in (1, 2):
        narrate(f"{chunks} stage(s) a rank ...")
        variants = {str(count): partial(_bubble, chunks, count) for count in COUNTS}
        few, many = interleave(variants, rounds).values()
        fall = _fall(few, many)
        theory = [1 / (chunks * count) for count in COUNTS]
        rows.append(
            Row(
                name=f"v = {chunks}: fall of bubble over computing, m = {COUNTS[0]} to {COUNTS[1]}",
                value=fall,
                unit="of the bubble",
                rounds=rounds,
                interval=interval_of(_fall, few, many),
                target=f"{FALL} +- {TOLERANCE}",
                met=abs(fall - FALL) <= TOLERANCE,
                note=f"bubbles {median(few):.3f} and {median(many):.3f}, by the formula"
                f" {theory[0]:.3f} and {theory[1]:.3f}",
            )
        )
    return rows


def _fall(few: Sequence[float], many: Sequence[float]) -> float:
    return 1 - float(median(many)) / float(median(few))


def _bubble(chunks: int, count: int) -> float:
    """Bubble over computing, the median over the steps of a run."""
    run = trained_run(_config(chunks, count))
    with open_store(bench_home()) as store:
        rows = store.rows(_BUBBLES.replace("$run", f"'{run.run_id}'"))
    return median(float(share) for (share,) in rows)


def _config(chunks: int, count: int) -> RunConfig:
    from engine.training.config import RunConfig

    given = {
        "name": "pipeline",
        "model": {
            "vocab_size": 512,
            "hidden_size": 512,
            "n_layers": 8,
            "n_heads": 8,
            "n_kv_heads": 8,
            "intermediate_size": 1408,
            "max_seq_len": 512,
        },
        "data": {"seq_len": 512},
        "train": {"steps": _STEPS, "batch_size": count, "micro_batches": count},
        "parallel": {"tp": 1, "pp": 2, "dp": 1, "chunks": chunks, "device": "cpu"},
    }
    return resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value
