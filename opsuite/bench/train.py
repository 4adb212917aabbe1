"""MegaScale's ablation (table 3), row by row: each technique against the row before, in turn.

On two CPU cores a mesh of every axis at once shows nothing: its ranks would wait for cores. So each
row is measured on the two ranks that its technique is about (tp, pp or dp = 2), with all techniques
of the rows before, and once more without the row's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from collectors.configuration import resolve
from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.rounds import interleave, ratio_interval
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.training.config import RunConfig
    from opsuite.bench.options import BenchOptions

Sections = dict[str, dict[str, Any]]
_SEQ_LEN, _SEQUENCES, _COUNT = 256, 8, 4
_STEPS, _WARM_UP = 8, 2


@dataclass(frozen=True, kw_only=True)
class Technique:
    """A row of the ablation.

    Attributes:
        axis: of the mesh, whose two ranks it is measured on.
        without, with_it: configuration before and from this row on.
        megascale: points of MFU that it brought at 256 GPUs.
    """

    name: str
    axis: str
    without: Sections
    with_it: Sections
    megascale: float


TECHNIQUES = (
    Technique(
        name="parallel block (PTB)",
        axis="tp",
        without={"model": {"parallel_block": False}},
        with_it={"model": {"parallel_block": True}},
        megascale=4.6,
    ),
    Technique(
        name="sliding window (SWA)",
        axis="tp",
        without={"model": {"window": 0}},
        with_it={"model": {"window": _SEQ_LEN // 4}},
        megascale=1.0,
    ),
    Technique(
        name="TP overlap",
        axis="tp",
        without={"parallel": {"transport": "collective"}},
        with_it={"parallel": {"transport": "shared"}},
        megascale=2.2,
    ),
    Technique(
        name="PP overlap",
        axis="pp",
        without={"parallel": {"schedule": "coupled-1f1b"}},
        with_it={"parallel": {"schedule": "1f1b"}},
        megascale=2.5,
    ),
    Technique(
        name="DP overlap",
        axis="dp",
        without={"parallel": {"overlap_dp": False}},
        with_it={"parallel": {"overlap_dp": True}},
        megascale=1.5,
    ),
    Technique(
        name="operators",
        axis="dp",
        without={"train": {"operators": "torch"}},
        with_it={"train": {"operators": "compiled"}},
        megascale=1.7,
    ),
    Technique(
        name="data and GC",
        axis="dp",
        without={"data": {"share": False}, "train": {"own_gc": False}},
        with_it={"data": {"share": True}, "train": {"own_gc": True}},
        megascale=1.1,
    ),
    Technique(
        name="LAMB (batch x 4)",
        axis="pp",
        without={"optimizer": {"rule": "adamw"}, "train": {"batch_size": _SEQUENCES}},
        with_it={
            "optimizer": {"rule": "lamb"},
            "train": {"batch_size": 4 * _SEQUENCES, "micro_batches": 4 * _COUNT},
        },
        megascale=3.0,
    ),
)


def measure(rounds: int, options: BenchOptions) -> list[Row]:
    """Tokens a second of each row over those of the row before; a PNG if it is asked for."""
    from opsuite.bench.overlap_plot import require_drawing
    from opsuite.bench.train_plot import draw

    if options.plot:
        require_drawing(options.plot)
    rows: list[Row] = []
    for number, technique in enumerate(TECHNIQUES):
        narrate(f"{technique.name} ...")
        before, after = interleave(_variants(number), rounds).values()
        value, baseline = median(after), median(before)
        rows.append(
            Row(
                name=f"{technique.name}, {technique.axis} = 2",
                value=value,
                unit="tokens/s",
                rounds=rounds,
                baseline=baseline,
                ratio=value / baseline,
                interval=ratio_interval(after, before),
                note=f"MegaScale, 256 GPUs: {technique.megascale:+} points of MFU",
            )
        )
    if options.plot:
        draw(rows, options.plot)
    return rows


def _variants(number: int) -> Mapping[str, Callable[[], float]]:
    """The row before, and this row, on this row's mesh."""
    technique = TECHNIQUES[number]
    earlier = [each.with_it for each in TECHNIQUES[:number]]
    later = [each.without for each in TECHNIQUES[number + 1 :]]
    rows = [*later, *earlier]
    return {
        "before": partial(_tokens_per_s, technique.axis, [*rows, technique.without]),
        "with it": partial(_tokens_per_s, technique.axis, [*rows, technique.with_it]),
    }


def _tokens_per_s(axis: str, sections: Sequence[Sections]) -> float:
    """Of a run, by the median of its steps after the first ones."""
    config = _config(axis, sections)
    run = trained_run(config)
    with open_store(bench_home()) as store:
        rows = store.rows(
            "SELECT max(duration_s) FROM steps WHERE run_id = ? AND step > ? GROUP BY step",
            [run.run_id, _WARM_UP],
        )
    return config.tokens_per_step / median(float(seconds) for (seconds,) in rows)


def _config(axis: str, sections: Sequence[Sections]) -> RunConfig:
    from engine.training.config import RunConfig

    given: Sections = {
        "model": {
            "vocab_size": 4096,
            "hidden_size": 512,
            "n_layers": 4,
            "n_heads": 8,
            "n_kv_heads": 8,
            "intermediate_size": 1408,
            "max_seq_len": _SEQ_LEN,
        },
        "data": {"seq_len": _SEQ_LEN},
        "train": {"steps": _STEPS, "batch_size": _SEQUENCES, "micro_batches": _COUNT},
        "parallel": {"tp": 1, "dp": 1, "device": "cpu", axis: 2},
    }
    layers: list[tuple[str, Any]] = [("the demo", CONFIG), ("the benchmark", given)]
    layers += [(f"row {number}", each) for number, each in enumerate(sections)]
    resolved: RunConfig = resolve(RunConfig, layers).value
    return resolved
