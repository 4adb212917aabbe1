"""Hosts whose clocks are seconds apart: recorded, collected, aligned, and nobody blamed for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest

from collectors.clock import Anchor
from collectors.query.direct import Store
from collectors.recorder import Identity, open_recorder
from collectors.run import RunDirectory
from playbooks.diagnosis import diagnose

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Times = NDArray[np.int64]

S = 10**9
STEPS = 120
BUCKETS = 3  # gradients are reduced in so many parts a step
PER_HOST = 2


@dataclass(frozen=True, kw_only=True)
class HostClock:
    """A host's clocks at true time t (ns since the run began): monotonic, and wall at its boot."""

    monotonic_ns: int
    wall_ns: int
    drift: float

    def read(self, at: int) -> int:
        return self.monotonic_ns + at + round(at * self.drift)


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What happened: true arrivals and ends [steps, buckets, ranks], ns."""

    run: RunDirectory
    begun_ns: int
    arrived: Times
    left: Times

    @property
    def blocked_s(self) -> NDArray[np.float64]:
        blocked: NDArray[np.float64] = (self.arrived.max(axis=2, keepdims=True) - self.arrived) / S
        return blocked


def record(
    home: Path, patch: pytest.MonkeyPatch, *, hosts: int, seed: int, slow: range = range(0)
) -> Truth:
    """A run whose hosts' clocks are up to 5 s and 50 ppm off; the last rank is slow at times."""
    rng = np.random.default_rng(seed)
    world = hosts * PER_HOST
    arrived, left = simulate(rng, world, slow)
    begun_ns = time.time_ns()
    run = RunDirectory.create(
        home, name="skewed", kind="training", command=["opsuite"], config={}, world_size=world
    )
    clocks = [
        HostClock(
            monotonic_ns=int(rng.integers(S, 10**6 * S)),
            wall_ns=begun_ns + (int(rng.integers(-5 * S, 5 * S)) if host else 0),
            drift=rng.uniform(-5e-5, 5e-5) if host else 0.0,
        )
        for host in range(hosts)
    ]
    for rank in range(world):
        clock = clocks[rank // PER_HOST]
        anchor = Anchor(wall_ns=clock.wall_ns, monotonic_ns=clock.monotonic_ns)
        patch.setattr(Anchor, "take", lambda attempts=5, anchor=anchor: anchor)
        record_rank(run, rank, world, clock, arrived[:, :, rank], left[:, :, rank])
    run.finish("finished", 0)
    return Truth(run=run, begun_ns=begun_ns, arrived=arrived, left=left)


def simulate(rng: np.random.Generator, world: int, slow: range) -> tuple[Times, Times]:
    """Steps of 100 ms; 50-500 us from the last arrival at a bucket to each rank's leaving it."""
    arrived = np.empty((STEPS, BUCKETS, world), dtype=np.int64)
    left = np.empty_like(arrived)
    now = np.zeros(world, dtype=np.int64)
    for step in range(STEPS):
        work = 100e6 * np.exp(rng.normal(0, 0.02, world))
        work[-1] *= 2 if step in slow else 1
        for bucket in range(BUCKETS):
            between = work if bucket == 0 else np.abs(rng.normal(0, 500e3, world))
            arrived[step, bucket] = now + between.astype(np.int64)
            latency = np.exp(rng.normal(np.log(150e3), 0.6, world)).clip(50e3, 500e3)
            now = left[step, bucket] = arrived[step, bucket].max() + latency.astype(np.int64)
    return arrived, left


def record_rank(
    run: RunDirectory, rank: int, world: int, clock: HostClock, arrived: Times, left: Times
) -> None:
    identity = Identity(
        run_id=run.run_id,
        role="trainer",
        rank=rank,
        world_size=world,
        host=f"node{rank // PER_HOST}",
        coordinates={"dp": rank},
    )
    recorder = open_recorder(run.spool, identity)
    began = 0
    for step in range(STEPS):
        ended = int(left[step, -1])
        begin, end = clock.read(began), clock.read(ended)
        middle = clock.read(int(arrived[step, 0]) - 1000)
        recorder.record_span("step", begin, end, step)
        recorder.record_span("backward", begin, middle, step)
        recorder.record_span("grad_sync", middle, end, step)
        for bucket in range(BUCKETS):
            recorder.collective(
                "all_reduce",
                group=f"dp[{','.join(map(str, range(world)))}]",
                group_size=world,
                sequence=step * BUCKETS + bucket,
                size_bytes=1 << 20,
                start_ns=clock.read(int(arrived[step, bucket])),
                end_ns=clock.read(int(left[step, bucket])),
                step=step,
            )
        began = ended
    recorder.close()


@pytest.mark.parametrize(("hosts", "seed"), [(2, 0), (2, 1), (3, 2), (4, 3)])
def test_times_and_waits_are_right_to_a_millisecond(
    home: Path, monkeypatch: pytest.MonkeyPatch, hosts: int, seed: int
) -> None:
    """On all ranks at all times of the run, with bounds that hold; and nobody is a straggler."""
    truth = record(home, monkeypatch, hosts=hosts, seed=seed)
    with Store.open(home) as store:
        found = store.arrays(
            "SELECT start_ns, blocked_s, clock_error_s FROM collectives"
            " ORDER BY step, sequence, rank"
        )
        errors = store.rows("SELECT host, clock_error_s FROM hosts ORDER BY host")
        steps = store.arrays("SELECT blocked_s FROM steps ORDER BY step, rank")
        diagnosis = diagnose(store, truth.run.run_id)
    wrong_ns = np.abs(
        found["start_ns"].reshape(truth.arrived.shape) - truth.begun_ns - truth.arrived
    )
    assert wrong_ns.max() < 1_000_000
    bounds_s = dict(errors)
    assert bounds_s["node0"] == 0
    for rank in range(hosts * PER_HOST):
        assert wrong_ns[:, :, rank].max() <= bounds_s[f"node{rank // PER_HOST}"] * S + 2
    wrong_s = np.abs(found["blocked_s"].reshape(truth.arrived.shape) - truth.blocked_s)
    assert wrong_s.max() < 1e-3
    assert (wrong_s <= found["clock_error_s"].reshape(wrong_s.shape) + 1e-8).all()
    blocked = steps["blocked_s"].reshape(STEPS, -1)
    assert np.abs(blocked - truth.blocked_s.sum(axis=1)).max() < BUCKETS * 1e-3
    assert diagnosis.ranks == hosts * PER_HOST
    assert diagnosis.findings == ()


def test_the_straggler_among_them_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And how long its peers were blocked by it, on whatever host they are."""
    truth = record(home, monkeypatch, hosts=2, seed=5, slow=range(50, 90))
    with Store.open(home) as store:
        (finding,) = diagnose(store, truth.run.run_id).findings
    assert (finding.kind, finding.ranks, finding.hosts) == ("straggler", (3,), ("node1",))
    assert abs(finding.first_step - 50) <= 1
    assert abs(finding.last_step - 89) <= 1
    [blocked] = [fact for fact in finding.evidence if "blocked" in fact.what]
    assert blocked.value is not None
    assert 0.09 < blocked.value < 0.12
    assert blocked.baseline is not None
    assert blocked.baseline < 0.01


def test_hosts_that_nothing_connects_are_not_compared(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their bounds are NULL, not 0."""
    run = RunDirectory.create(
        home, name="apart", kind="training", command=["opsuite"], config={}, world_size=4
    )
    for rank in (0, 2):
        clock = HostClock(monotonic_ns=S, wall_ns=time.time_ns() + rank * S, drift=0.0)
        anchor = Anchor(wall_ns=clock.wall_ns, monotonic_ns=clock.monotonic_ns)
        monkeypatch.setattr(Anchor, "take", lambda attempts=5, anchor=anchor: anchor)
        identity = Identity(
            run_id=run.run_id,
            role="trainer",
            rank=rank,
            world_size=4,
            host=f"node{rank}",
            coordinates={},
        )
        recorder = open_recorder(run.spool, identity)
        recorder.record_span("step", clock.read(0), clock.read(S), 0)
        recorder.close()
    run.finish("finished", 0)
    with Store.open(home) as store:
        found = store.rows("SELECT host, clock_error_s FROM hosts ORDER BY host")
    assert found == [("node0", 0.0), ("node2", None)]
