"""Whether the ranks of a mesh learn what one process learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home
from opsuite.bench.result import Row
from opsuite.bench.training import trained_run
from opsuite.demo import CONFIG
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.training.config import RunConfig

STEPS = 20
MAX_DIFFERENCE = 1e-4
_MESHES: Mapping[str, Mapping[str, int]] = {
    "one process": {"tp": 1, "dp": 1},
    "tp=2": {"tp": 2, "dp": 1},
    "dp=2": {"tp": 1, "dp": 2},
    "pp=2": {"tp": 1, "dp": 1, "pp": 2},
    "tp=2 dp=2": {"tp": 2, "dp": 2},
    "tp=2 pp=2": {"tp": 2, "dp": 1, "pp": 2},
    "pp=2 dp=2": {"tp": 1, "dp": 2, "pp": 2},
}
_MICRO_BATCHES = 2  # of a pipeline


def measure(rounds: int) -> list[Row]:
    """The largest difference of the loss from one process's, over 20 steps in float32 on CPU."""
    worst: dict[str, float] = {}
    for index in range(rounds):
        curves = {name: losses(_config(mesh, seed=index)) for name, mesh in _MESHES.items()}
        alone = curves.pop("one process")
        for name, curve in curves.items():
            difference = max(abs(a - b) for a, b in zip(alone, curve, strict=True))
            worst[name] = max(worst.get(name, 0.0), difference)
    return [
        Row(
            name=f"{name}: largest difference in loss over {STEPS} steps",
            value=difference,
            unit="nats",
            rounds=rounds,
            target=f"<= {MAX_DIFFERENCE}",
            met=difference <= MAX_DIFFERENCE,
        )
        for name, difference in worst.items()
    ]


def _config(mesh: Mapping[str, int], seed: int) -> RunConfig:
    from collectors.configuration import resolve
    from engine.training.config import RunConfig

    given: dict[str, Any] = {
        "name": "equivalence",
        "train": {
            "steps": STEPS,
            "seed": seed,
            "micro_batches": _MICRO_BATCHES if mesh.get("pp", 1) > 1 else 1,
        },
        "parallel": {**mesh, "device": "cpu"},
    }
    return resolve(RunConfig, [("the demo", CONFIG), ("the benchmark", given)]).value


def losses(config: RunConfig) -> list[float]:
    """The loss after each step of a run."""
    run = trained_run(config, narrate=narrate)
    with open_store(bench_home()) as store:
        rows = store.rows(
            "SELECT value FROM samples WHERE run_id = ? AND name = 'loss' ORDER BY step",
            [run.run_id],
        )
    return [float(value) for (value,) in rows]
