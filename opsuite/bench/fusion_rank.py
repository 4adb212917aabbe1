"""A rank whose steps communicate now in one way, now in another: what hiding it brings a step.

The benchmark ``fusion`` launches it in place of the usual worker.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING

from engine.training.worker import run_rank

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from engine.models.transformer import Transformer
    from engine.overlap.transport import Transport
    from engine.step_hook import StepHook
    from engine.training.config import RunConfig
    from engine.training.job import Job
    from engine.training.mesh import Mesh
    from engine.training.replica import Replica

WAYS = ("fused", "split", "replicated", "chunked", "absent")
"""Fused operators; gloo's collectives and products, one after the other, with tokens split (gather
and reduce-scatter) and replicated (all-reduce); the same in chunks that overlap; no communication
at all."""


class WaysInTurn:
    """Changes the way before each step, all ways in each round in an order by chance, and times it.

    The ways that are compared are the transports of one group, so all else is the same.
    """

    def __init__(self, mesh: Mesh, model: Transformer, output: Path) -> None:
        from engine.overlap.absent import AbsentTransport
        from engine.overlap.collective import CollectiveTransport

        group, tp = mesh.tp.process_group, mesh.tp
        assert group is not None
        serial = CollectiveTransport(group, meet=tp.meet, chunks=1)
        self._transports: dict[str, Transport] = {
            "fused": tp.transport,
            "split": serial,
            "replicated": serial,
            "chunked": CollectiveTransport(group, meet=tp.meet),
            "absent": AbsentTransport(rank=tp.rank, size=tp.size),
        }
        self._mesh = mesh
        self._model = model
        self._output = output
        self._chance = random.Random(0)  # noqa: S311 - the same on all ranks
        self._order: list[str] = []
        self._way = ""
        self._seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        self._start = 0.0

    def on_step_begin(self, step: int) -> None:
        """Take the next way, together."""
        if not self._order:
            self._order = self._chance.sample(WAYS, len(WAYS))
        self._way = self._order.pop()
        self._mesh.tp.transport = self._transports[self._way]
        self._model.split = self._way != "replicated"
        self._mesh.world.barrier()
        self._start = perf_counter()

    def on_step_end(self, step: int) -> None:
        """Keep how long it took here."""
        self._seconds[self._way].append(perf_counter() - self._start)

    def close(self) -> None:
        """Write what was measured."""
        self._mesh.tp.transport = self._transports["fused"]
        self._output.write_text(json.dumps(self._seconds), encoding="utf-8")


def output_path(run: Path, rank: int) -> Path:
    """Where a rank leaves the seconds of its steps, by way."""
    return run / f"ways-{rank}.json"


def _train(run: Path, job: Job, config: RunConfig) -> None:
    from engine.training.session import open_rank_recorder, train_recorded

    def hooks(mesh: Mesh, replica: Replica) -> Sequence[StepHook]:
        return [WaysInTurn(mesh, replica.parts[0], output_path(run, int(os.environ["RANK"])))]

    with closing(open_rank_recorder(run, job, config)) as recorder:
        train_recorded(run, job, config, recorder, hooks=hooks)


if __name__ == "__main__":
    run_rank(_train)
