"""Simulator and live servers beside each other: the same requests, the same limits."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median
from time import time_ns
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.rounds import median_interval
from opsuite.bench.serving.calibration import calibrate
from opsuite.bench.serving.iterations import iterations
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from engine.profiles.latency import Latency
    from engine.simulation.serve.counterpart import Counterpart
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Workload
    from opsuite.bench.serving.live import LiveServer
    from opsuite.bench.serving.measured import Measured

POLICIES = ("fcfs", "mlfq", "skip-join-mlfq", "adaptive")
WORKLOADS = ("sharegpt-like", "heavy-tailed")
LOADS = (0.5, 0.7, 0.9)
SPAN_S = 20.0
_FCFS = POLICIES[0]
_SHORTER = 4  # requests are a quarter as long as they are named, so that there are more of them
_FOR_CAPACITY = 400
_WARM_UP_LOAD, _WARM_UP_SEED = LOADS[-1], 1_000_000
_CLOSE, _TIE = 0.15, 0.05
_SPEED_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Point:
    """Where they are compared.

    Attributes:
        load: of FCFS's capacity, as each round calibrates it.
    """

    workload: str
    load: float

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.workload} at {self.load:g}"

    def requests(self, seed: int, capacity: float) -> Workload:
        """Of one round; ``capacity`` in requests a second."""
        rate = self.load * capacity
        return shortened(self.workload, max(2, round(rate * SPAN_S)), seed).scaled(rate)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Of a policy in one round.

    Attributes:
        live, simulated: mean JCT in seconds, at the client: the simulated engine's, and what a
            client waits beyond.
        at_speed: simulated with iterations that take ``slower`` times what was calibrated.
        slower: with that the simulated engine is at work for as long as the live one was.
    """

    live: float
    simulated: float
    at_speed: float
    slower: float


class Agreement:
    """Rounds of all points, with a new calibration at each: machines change their speed.

    Args:
        servers, doubles: by policy, with all of ``POLICIES`` among them.
        known: what the servers were told of their speed.
    """

    def __init__(
        self,
        servers: Mapping[str, LiveServer],
        doubles: Mapping[str, Counterpart],
        known: Latency,
        max_batch: int,
    ) -> None:
        self._servers = servers
        self._doubles = doubles
        self._known = known
        self._max_batch = max_batch
        self.points = [Point(workload=name, load=load) for name in WORKLOADS for load in LOADS]
        self.measured: list[Measured] = []
        self._pairs: dict[Point, dict[str, list[Pair]]] = {
            point: {policy: [] for policy in POLICIES} for point in self.points
        }

    def run(self, rounds: int) -> list[Row]:
        """All of it."""
        self._warm_up()
        for number in range(rounds):
            for point in self.points if number % 2 == 0 else self.points[::-1]:
                narrate(f"{point.name}, round {number + 1} of {rounds} ...")
                self._round(point, number)
        rows = [
            row
            for point, pairs in self._pairs.items()
            for row in agreement_rows(point.name, pairs, span_s=SPAN_S)
        ]
        return [*rows, order_row({point.name: found for point, found in self._pairs.items()})]

    def _warm_up(self) -> None:
        """A process's first passes are slow, and a policy that learns knows nothing at first; what
        servers learn here their doubles learn, too."""
        for seed, point in enumerate(self.points, _WARM_UP_SEED):
            if point.load == _WARM_UP_LOAD:
                narrate(f"warming up: {point.name} ...")
                workload = point.requests(seed, self._capacity(point, self._known))
                for policy, server in self._servers.items():
                    server.measure(workload, seed=seed)
                    self._doubles[policy].serve(workload, self._known)

    def _round(self, point: Point, number: int) -> None:
        seed = 1 + self.points.index(point) + len(self.points) * number
        costs = calibrate(self._servers[_FCFS], max_batch=self._max_batch, seed=seed)
        latency = costs.latency()
        workload = point.requests(seed, self._capacity(point, latency))
        for policy in POLICIES if number % 2 == 0 else POLICIES[::-1]:
            begin_ns = time_ns()
            found = self._servers[policy].measure(workload, seed=seed)
            self.measured.append(found)
            assert found.times.all.jct is not None, "there are requests"
            spent = iterations(self._servers[policy], begin_ns, time_ns())
            busy_s = sum(each.seconds for each in spent)
            slower, at_its_speed = at_speed(self._doubles[policy], workload, latency, busy_s)
            pair = Pair(
                live=found.times.all.jct.mean,
                simulated=costs.outside_s
                + _mean_jct(self._doubles[policy].serve(workload, latency)),
                at_speed=costs.outside_s + _mean_jct(at_its_speed),
                slower=slower,
            )
            narrate(
                f"  {policy}: live {pair.live:.3f} s, {costs.outside_s:.3f} s of it outside the"
                f" engine; simulated {pair.simulated:.3f} s, and"
                f" {pair.at_speed:.3f} s at {pair.slower:.2f} x the time"
            )
            self._pairs[point][policy].append(pair)

    def _capacity(self, point: Point, latency: Latency) -> float:
        """Requests a second of FCFS, when many come at once."""
        workload = shortened(point.workload, _FOR_CAPACITY, seed=0).at_once()
        double = deepcopy(self._doubles[_FCFS])
        return _FOR_CAPACITY / double.serve(workload, latency).end_s


def shortened(name: str, requests: int, seed: int) -> Workload:
    """A named workload, a quarter as long."""
    from engine.simulation.serve.workload import find_workload

    drawn = find_workload(name, requests=requests, seed=seed)
    shorter = tuple(
        replace(
            each,
            prompt_tokens=max(1, each.prompt_tokens // _SHORTER),
            output_tokens=max(1, each.output_tokens // _SHORTER),
        )
        for each in drawn.requests
    )
    return replace(drawn, requests=shorter)


def _mean_jct(outcome: Outcome) -> float:
    from engine.simulation.serve.metrics import by_prompt

    spread = by_prompt(outcome.lives, outcome.end_s).all.jct
    assert spread is not None, "there are requests"
    return spread.mean


def at_speed(
    double: Counterpart, workload: Workload, latency: Latency, busy_s: float
) -> tuple[float, Outcome]:
    """How many times as slow as calibrated an engine is that works for so long, and what it does.

    It tells a machine that changed its speed between calibration and replay from a simulator that
    decides otherwise or prices work wrongly. ``double`` stays as it is.
    """
    factor = 1.0
    for _ in range(_SPEED_STEPS):
        outcome = deepcopy(double).serve(workload, latency.scaled(factor))
        factor *= busy_s / outcome.busy_s
    return factor, deepcopy(double).serve(workload, latency.scaled(factor))


def agreement_rows(point: str, pairs: Mapping[str, Sequence[Pair]], *, span_s: float) -> list[Row]:
    """Of each policy at one point, where so many seconds of arrivals were served."""
    rows = []
    for policy, found in pairs.items():
        ratios = [each.live / each.simulated for each in found]
        like = median(each.live / each.at_speed for each in found)
        slower = median(each.slower for each in found)
        rows.append(
            Row(
                name=f"{point}: {policy}, mean JCT live over simulated",
                value=median(each.live for each in found),
                unit="s",
                rounds=len(found),
                baseline=median(each.simulated for each in found),
                ratio=median(ratios),
                interval=median_interval(ratios),
                target=f"within {_CLOSE:.0%}",
                met=abs(median(ratios) - 1) <= _CLOSE,
                note=f"{span_s:g} s of arrivals; ratios are of each round;"
                f" the engine was {slower:.2f} x as slow as calibrated before, and simulated at"
                f" that speed the ratio is {like:.3f}",
            )
        )
    return rows


def order_row(pairs: Mapping[str, Mapping[str, Sequence[Pair]]]) -> Row:
    """At how many points both order all policies alike."""
    wrong = {point: disagreements(found) for point, found in pairs.items()}
    alike = sum(not each for each in wrong.values())
    told = [f"{name}: {', '.join(each)}" for name, each in wrong.items() if each]
    return Row(
        name="points at which live and simulated order all policies alike",
        value=alike,
        unit=f"of {len(wrong)}",
        rounds=len(next(iter(next(iter(pairs.values())).values()))),
        target=f"{len(wrong)}; under {_TIE:.0%} apart is a tie",
        met=alike == len(wrong),
        note="; ".join(told),
    )


def disagreements(pairs: Mapping[str, Sequence[Pair]]) -> list[str]:
    """Two policies of which one is better live, and the other simulated; by medians over rounds.
    Where they are a tie on one side, the other side cannot contradict it."""

    def means(of: Callable[[Pair], float]) -> dict[str, float]:
        return {policy: median(of(each) for each in found) for policy, found in pairs.items()}

    live, simulated = means(lambda pair: pair.live), means(lambda pair: pair.simulated)
    return [
        f"{a} and {b}"
        for a, b in combinations(pairs, 2)
        if _order(live[a], live[b]) * _order(simulated[a], simulated[b]) < 0
    ]


def _order(a: float, b: float) -> int:
    if abs(a - b) < _TIE * min(a, b):
        return 0
    return -1 if a < b else 1
