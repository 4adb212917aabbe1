"""Live fleets of two instances beside their simulation: do both order the policies alike?

Servers of each policy stand side by side and take turns; load is open loop. What they know of their
speed is a profile that is measured first; the simulated fleet has the same, and for each iteration
what telling and hearing takes beyond it, as the live one records it while it is warmed up.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING

from collectors.daemon.access import open_store
from opsuite.bench.home import bench_home
from opsuite.bench.serving.agreement import Pair, agreement_rows, order_row
from opsuite.bench.serving.live import servers_of
from opsuite.bench.serving.model import make_model
from opsuite.extras import require_engine
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.elastic.information_base import InformationBase
    from engine.elastic.iteration import GroupIteration
    from engine.elastic.manager import Manager
    from engine.profiles.profile import Profile
    from engine.simulation.serve.request import Workload
    from opsuite.bench.result import Row
    from opsuite.bench.serving.live import LiveServer

POLICIES = ("replicas", "static-sp", "disaggregated", "esp")
LOADS = (0.3, 0.5, 0.7)
_WORKLOADS = {"sharegpt-like": 4, "leval-like": 16}  # and by how much their requests are shortened
_INSTANCES, _MAX_BATCH, _PREFILL_TOKENS, _CONTEXT = 2, 8, 256, 4096
_KV_TOKENS = 4 * _CONTEXT
_LINK_BYTES_PER_S = 5e9  # as servers take it that are given a profile
_SPAN_S = 10.0
_FOR_CAPACITY = 200
_WARM_UP_SEED = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Point:
    workload: str
    load: float

    @property
    def name(self) -> str:
        return f"{self.workload} at {self.load:g}"


def measure(rounds: int) -> list[Row]:
    """Rows of all points, and at how many of them the order is the same."""
    require_engine()
    with tempfile.TemporaryDirectory() as scratch:
        model, path = Path(scratch) / "random-256", Path(scratch) / "profile.json"
        make_model(model, context=_CONTEXT)
        profile = _profile(model, path)
        options = (
            *("--instances", str(_INSTANCES), "--threads", "1", "--profile", str(path)),
            *("--max-batch", str(_MAX_BATCH), "--prefill-tokens", str(_PREFILL_TOKENS)),
            *("--kv-tokens", str(_KV_TOKENS)),
        )
        with servers_of(POLICIES, str(model), options) as servers:
            return _Comparison(servers, profile).run(rounds)


def _profile(model: Path, path: Path) -> Profile:
    from engine.profiles.profile import write_profile
    from engine.serving.config import ServingConfig
    from engine.serving.fleet.profiling import profile_fleet

    narrate("measuring what groups of instances take ...")
    config = ServingConfig(
        device="cpu",
        policy="esp",
        instances=_INSTANCES,
        threads=1,
        max_batch=_MAX_BATCH,
        prefill_tokens=_PREFILL_TOKENS * _INSTANCES,
        kv_tokens=_KV_TOKENS,
    )
    found = profile_fleet(model, config, name=model.name, rounds=3, told=lambda _: None)
    write_profile(found, path)
    return found


class _Comparison:
    def __init__(self, servers: Mapping[str, LiveServer], profile: Profile) -> None:
        from engine.elastic.information_base import of_profile

        self._servers = servers
        self._base = of_profile(profile, tp=1, link_bytes_per_s=_LINK_BYTES_PER_S)
        self._pairs: dict[str, dict[str, list[Pair]]] = {}
        self._beside_s = dict.fromkeys(POLICIES, 0.0)

    def run(self, rounds: int) -> list[Row]:
        points = [_Point(workload=name, load=load) for name in _WORKLOADS for load in LOADS]
        self._warm_up(points[len(LOADS) - 1])
        for number in range(rounds):
            for point in points if number % 2 == 0 else points[::-1]:
                narrate(f"{point.name}, round {number + 1} of {rounds} ...")
                self._round(point, number)
        rows = [
            row
            for name, pairs in self._pairs.items()
            for row in agreement_rows(name, pairs, span_s=_SPAN_S)
        ]
        return [*rows, order_row(self._pairs)]

    def _warm_up(self, point: _Point) -> None:
        narrate(f"warming up: {point.name} ...")
        workload = self._requests(point, _WARM_UP_SEED)
        for policy, server in self._servers.items():
            begin_ns = time_ns()
            server.measure(workload, seed=_WARM_UP_SEED)
            self._beside_s[policy] = _beside_s(server, begin_ns)

    def _round(self, point: _Point, number: int) -> None:
        seed = 1 + 100 * number + round(10 * point.load)
        workload = self._requests(point, seed)
        for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
            begin_ns = time_ns()
            found = self._servers[policy].measure(workload, seed=seed + len(point.workload) * 1000)
            assert found.times.all.jct is not None, "there are requests"
            slower = _slower(self._servers[policy], begin_ns)
            pair = Pair(
                live=found.times.all.jct.mean,
                simulated=self._simulated(policy, workload, 1.0),
                at_speed=self._simulated(policy, workload, slower),
                slower=slower,
            )
            narrate(
                f"  {policy}: live {pair.live:.3f} s, simulated {pair.simulated:.3f} s, and"
                f" {pair.at_speed:.3f} s at {slower:.2f} x the time"
            )
            self._pairs.setdefault(point.name, {}).setdefault(policy, []).append(pair)

    def _requests(self, point: _Point, seed: int) -> Workload:
        rate = point.load * self._capacity(point.workload)
        count = max(2, round(rate * _SPAN_S))
        return _shortened(point.workload, count, seed).scaled(rate)

    def _capacity(self, workload: str) -> float:
        """Requests a second of all instances as one group, when many come at once."""
        at_once = _shortened(workload, _FOR_CAPACITY, 0).at_once()
        return len(at_once.requests) / self._outcome("static-sp", at_once, 1.0)[1]

    def _simulated(self, policy: str, workload: Workload, slower: float) -> float:
        return self._outcome(policy, workload, slower)[0]

    def _outcome(self, policy: str, workload: Workload, slower: float) -> tuple[float, float]:
        """Mean JCT, and when all have ended."""
        from engine.simulation.fleet.simulator import FleetSimulator
        from engine.simulation.serve.metrics import by_prompt

        beside_s = self._beside_s[policy]

        def seconds(iteration: GroupIteration) -> float:
            return iteration.predicted_s * slower + beside_s

        outcome = FleetSimulator(_manager(policy, self._base), workload, seconds=seconds).run()
        jct = by_prompt(outcome.lives, outcome.end_s).all.jct
        assert jct is not None, "there are requests"
        return jct.mean, outcome.end_s


def _manager(policy: str, base: InformationBase) -> Manager:
    """As a server makes it."""
    from engine.elastic.fleet_profile import FleetProfile
    from engine.elastic.manager import Manager
    from engine.elastic.registry import make_fleet_policy
    from engine.scheduling.registry import Knowledge, make_policy

    return Manager(
        make_fleet_policy(policy, base, prefill_tokens=_PREFILL_TOKENS),
        make_policy("adaptive", Knowledge(profile=FleetProfile(base, _INSTANCES))),
        base,
        slots=dict.fromkeys(range(_INSTANCES), _KV_TOKENS),
        max_batch=_MAX_BATCH,
    )


def _shortened(name: str, requests: int, seed: int) -> Workload:
    from engine.simulation.serve.workload import find_workload

    shorter = _WORKLOADS[name]
    drawn = find_workload(name, requests=requests, seed=seed)
    made = (
        replace(
            each,
            prompt_tokens=max(1, min(_CONTEXT // 2, each.prompt_tokens // shorter)),
            output_tokens=max(1, each.output_tokens // 4),
        )
        for each in drawn.requests
    )
    return replace(drawn, requests=tuple(made))


def _beside_s(server: LiveServer, since_ns: int) -> float:
    """What telling and hearing takes of an iteration."""
    found = _iterations(server, since_ns, "median(since_decided_s - duration_s)")
    return max(0.0, found)


def _slower(server: LiveServer, since_ns: int) -> float:
    """How many times as long as predicted iterations took."""
    return _iterations(server, since_ns, "sum(duration_s) / sum(predicted_s)")


def _iterations(server: LiveServer, since_ns: int, what: str) -> float:
    with open_store(bench_home()) as store:
        rows = store.rows(
            f"SELECT {what} FROM group_iterations WHERE run_id = ? AND at_ns >= ?"  # noqa: S608
            " AND NOT torn",
            [server.run, since_ns],
        )
    return float(rows[0][0])
