"""Simulations that a campaign needs, kept on disk: one that was stopped is taken up again.

What is kept counts for these sources and inputs only: a change of either begins anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opsuite.bench.home import bench_home
from opsuite.output import narrate
from opsuite.shared_data import COSTS, find_shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.simulation.serve.request import Workload
    from engine.simulation.serve.set_up import SetUp

_SOURCES = ("engine/scheduling", "engine/simulation/serve", "engine/profiles/latency.py")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A workload on a set-up.

    Attributes:
        cv: coefficient of variation of the gaps between arrivals.
    """

    workload: str
    max_batch: int
    seed: int
    requests: int
    cv: float = 1.0

    @property
    def name(self) -> str:
        """For people, without the seed."""
        bursty = "" if self.cv == 1 else f" (CV {self.cv:g})"
        return f"{self.workload}{bursty}, cap {self.max_batch}"


class Cells:
    """Results by what was simulated.

    Raises:
        UsageError: the measured costs are not beside this checkout.
    """

    def __init__(self) -> None:
        from opsuite.cli.simulate_serve import read_costs

        costs = find_shared(COSTS)
        self._costs = read_costs(costs, None, None)
        self._directory = bench_home() / "serving-simulated" / _digest(costs)
        self._directory.mkdir(parents=True, exist_ok=True)
        narrate(f"results so far: {self._directory}")

    def capacity(self, point: Point) -> float:
        """Requests a second of FCFS when all arrive at once."""
        from engine.simulation.serve.comparison import capacity

        made = self._cell(
            point, "capacity", lambda: {"rate": capacity(self._set_up(point), _drawn(point))}
        )
        return float(made["rate"])

    def metrics(
        self, point: Point, policy: str, load: float, make_room: str | None = None
    ) -> dict[str, Any]:
        """Of a policy at a load: :class:`~engine.simulation.serve.metrics.Metrics` as data."""
        what = f"{policy}-{load:.6f}" + (f"-{make_room}" if make_room else "")
        return self._cell(point, what, lambda: self._simulate(point, policy, load, make_room))

    def _simulate(
        self, point: Point, policy: str, load: float, make_room: str | None
    ) -> dict[str, Any]:
        from dataclasses import asdict

        from engine.scheduling.limits import MakeRoom
        from engine.simulation.serve.comparison import simulate
        from engine.simulation.serve.metrics import measure

        room = None if make_room is None else MakeRoom(make_room)
        set_up = replace(self._set_up(point), make_room=room)
        workload = _drawn(point).scaled(load * self.capacity(point))
        return asdict(measure(simulate(set_up, policy, workload)))

    def _set_up(self, point: Point) -> SetUp:
        from engine.simulation.serve.set_up import SetUp

        return SetUp(costs=self._costs, max_batch=point.max_batch)

    def _cell(self, point: Point, what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        name = f"{point.workload}-cv{point.cv:g}-{point.max_batch}-{point.requests}-{point.seed}"
        path = self._directory / f"{name}-{what}.json"
        if not path.exists():
            narrate(f"{point.name}, seed {point.seed}: {what}")
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(make()), encoding="utf-8")
            partial.rename(path)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def _drawn(point: Point) -> Workload:
    from engine.simulation.serve.workload import find_workload

    return find_workload(
        point.workload,
        requests=point.requests,
        seed=point.seed,
        cv=point.cv,
        traces=find_shared("traces"),
    )


def _digest(costs: Path | None) -> str:
    """Of all that a result follows from."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256(costs.read_bytes() if costs is not None else b"")
    for source in _SOURCES:
        path = root / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:16]
