"""What hidden communication brings a training step: tp=2 on CPU, at several widths.

The *gap* is what gloo's collectives cost: the step with them less the step with no communication.
Flux (arXiv 2406.06858) gains 1.24x in training over Megatron-LM on 128 GPUs.
"""

from __future__ import annotations

import json
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from collectors.configuration import resolve
from opsuite.bench.equivalence import MAX_DIFFERENCE
from opsuite.bench.equivalence import STEPS as CURVE_STEPS
from opsuite.bench.result import Row
from opsuite.bench.rounds import interval_of, ratio_interval
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.training.config import RunConfig

WIDTHS = (256, 512, 1024)
MIN_CLOSED = 0.8
MIN_GAP = 0.1
_WARM_UP = 2  # rounds
_LAYERS = 4
_TOKENS = 1024


def measure(rounds: int) -> list[Row]:
    """Steps of all ways in turn in one run at each width; then loss curves of two runs each."""
    rows: list[Row] = []
    for width in WIDTHS:
        narrate(f"width {width} ...")
        rows += _rows(width, _step_seconds(width, rounds))
        rows.append(_curves(width))
    return rows


def _config(width: int, given: Mapping[str, object]) -> RunConfig:
    from engine.training.config import RunConfig

    shape = {
        "model": {
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "n_layers": _LAYERS,
            "n_heads": width // 64,
            "n_kv_heads": width // 64,
        },
        "data": {"seq_len": 128},
        "train": {"batch_size": _TOKENS // 128},
        "parallel": {"tp": 2, "dp": 1, "device": "cpu"},
    }
    layers = [("the demo", CONFIG), ("the width", shape), ("the benchmark", given)]
    return resolve(RunConfig, layers).value


def _step_seconds(width: int, rounds: int) -> dict[str, list[float]]:
    """Of each way, the slower rank's."""
    from opsuite.bench.fusion_rank import WAYS, output_path

    steps = (rounds + _WARM_UP) * len(WAYS)
    config = _config(width, {"name": "fusion", "train": {"steps": steps}})
    run = trained_run(config, narrate=narrate, worker="opsuite.bench.fusion_rank")
    ranks = [json.loads(output_path(run.path, rank).read_text()) for rank in range(2)]
    return {
        way: [max(pair) for pair in zip(*(rank[way][_WARM_UP:] for rank in ranks), strict=True)]
        for way in WAYS
    }


def _rows(width: int, seconds: Mapping[str, Sequence[float]]) -> list[Row]:
    library = min(("split", "replicated"), key=lambda way: median(seconds[way]))
    fused, gloo = median(seconds["fused"]), median(seconds[library])
    gap = (gloo - median(seconds["absent"])) / gloo
    closed = _closed(*(seconds[way] for way in ("fused", library, "absent")))
    slower = ratio_interval(seconds["fused"], seconds[library])
    name = f"d {width}, {_TOKENS} tokens"
    others = ", ".join(f"{way} {median(each) * 1e3:.1f} ms" for way, each in seconds.items())
    met = closed >= MIN_CLOSED if gap >= MIN_GAP else slower[0] <= 1
    return [
        Row(
            name=f"{name}: tokens/s, fused over gloo ({library})",
            value=_TOKENS / fused,
            unit="tokens/s",
            rounds=len(seconds["fused"]),
            baseline=_TOKENS / gloo,
            ratio=gloo / fused,
            interval=ratio_interval(seconds[library], seconds["fused"]),
            note=f"Flux: 1.24x; {others}",
        ),
        Row(
            name=f"{name}: share of the gap that is closed",
            value=closed,
            unit="of the gap",
            rounds=len(seconds["fused"]),
            interval=interval_of(_closed, *(seconds[way] for way in ("fused", library, "absent"))),
            target=f">= {MIN_CLOSED} where the gap is >= {MIN_GAP:.0%} of the step, else no slower",
            met=met,
            note=f"the gap is {gap:.1%} of gloo's step",
        ),
    ]


def _closed(fused: Sequence[float], library: Sequence[float], absent: Sequence[float]) -> float:
    gap = float(np.median(library) - np.median(absent))
    return float(np.median(library) - np.median(fused)) / gap


def _curves(width: int) -> Row:
    """Largest difference between the losses of a fused and of a gloo run."""
    from opsuite.bench.equivalence import losses

    fused, gloo = (
        losses(
            _config(
                width,
                {
                    "name": f"fusion-{transport}",
                    "train": {"steps": CURVE_STEPS},
                    "parallel": {"transport": transport, "split_tokens": transport == "shared"},
                },
            )
        )
        for transport in ("shared", "collective")
    )
    difference = max(abs(a - b) for a, b in zip(fused, gloo, strict=True))
    return Row(
        name=f"d {width}: largest difference in loss over {CURVE_STEPS} steps, fused and gloo",
        value=difference,
        unit="nats",
        rounds=1,
        target=f"<= {MAX_DIFFERENCE}",
        met=difference <= MAX_DIFFERENCE,
    )
