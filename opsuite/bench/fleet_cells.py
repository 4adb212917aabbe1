"""Simulated fleets that a campaign needs, kept on disk: one that was stopped is taken up again.

What is kept counts for the sources that it follows from only: a change of these begins anew. Those
of elastic policies do not count for the baselines.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from opsuite.bench.home import bench_home
from opsuite.output import narrate
from opsuite.shared_data import find_shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.simulation.fleet.fleet_serving import FleetServing, Variant
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.request import Workload

_ELASTIC = ("engine/elastic", "engine/simulation/fleet", "engine/scheduling")
_BASELINE = (
    "engine/elastic/information_base.py",
    "engine/elastic/degree_law.py",
    *(
        f"engine/simulation/fleet/{name}.py"
        for name in (
            *("measured", "device_model", "set_up", "slo", "engines", "counted_engine"),
            *("replicas", "disaggregation", "baselines"),
        )
    ),
    *(
        f"engine/scheduling/{name}.py"
        for name in (
            *("draft", "fcfs", "limits", "pages", "ranked", "ranking", "residence", "scheduler"),
            *("short_first", "steadiness"),
        )
    ),
)
_BOTH = ("engine/profiles", "engine/simulation/serve")


@dataclass(frozen=True, kw_only=True)
class Load:
    """A workload, before it is given a rate.

    Attributes:
        requests: of a recorded trace, the part that a seed has: one part after the other.
    """

    workload: str
    requests: int
    seed: int

    @cached_property
    def drawn(self) -> Workload:
        """At a rate of its own."""
        from engine.simulation.serve.workload import find_workload

        traces = find_shared("traces")
        if self.workload != "mooncake":
            return find_workload(self.workload, requests=self.requests, seed=self.seed)
        recorded = find_workload(self.workload, traces=traces)
        parts = max(1, len(recorded.requests) // self.requests)
        first = self.seed % parts * self.requests
        return replace(recorded, requests=recorded.requests[first : first + self.requests])


class FleetCells:
    """Results by what was simulated.

    Args:
        elastic: names of the policies that decide by elastic rules.
    """

    def __init__(self, set_up: FleetSetUp, elastic: Sequence[str] = ()) -> None:
        self._set_up = set_up
        self._elastic = frozenset(elastic)
        self._directory = bench_home() / "esp-simulated"
        narrate(f"results so far: {self._directory}")

    def slowdown(
        self, load: Load, policy: FleetServing, variant: Variant, rate: float
    ) -> dict[str, float]:
        """Of one variant of a policy: :class:`~engine.simulation.fleet.slo.Slowdown` as data."""
        path = self._path(load, policy, variant, rate)
        if not path.exists():
            found = self._simulate(load, variant, rate)
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(found), encoding="utf-8")
            partial.rename(path)
        kept: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def _simulate(self, load: Load, variant: Variant, rate: float) -> dict[str, float]:
        from engine.simulation.fleet.slo import measure_slowdown

        outcome = variant.serve(load.drawn.scaled(rate), self._set_up)
        return asdict(measure_slowdown(outcome, self._set_up.whole))

    def _path(self, load: Load, policy: FleetServing, variant: Variant, rate: float) -> Path:
        sources = _ELASTIC if policy.name in self._elastic else _BASELINE
        tuned = re.sub(r"\W+", "-", variant.name)
        name = f"{load.workload}-{load.requests}-{load.seed}-{policy.name}-{tuned}-{rate:.9g}.json"
        return self._directory / _digest((*sources, *_BOTH)) / name


@cache
def _digest(sources: tuple[str, ...]) -> str:
    """Of all that a result follows from."""
    root = Path(__file__).resolve().parents[2]
    found = hashlib.sha256()
    for source in sources:
        path = root / source
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            found.update(file.read_bytes())
    return found.hexdigest()[:16]
