"""What the daemons take of a core while two ranks train: collector with all samplers, watchdog."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsuite.bench.result import Row
from opsuite.bench.tracing.collecting import Collecting, children_cpu_s, cpu_s, temporary_home
from opsuite.bench.watchers.job import Job
from opsuite.bench.watchers.trial import Trial

if TYPE_CHECKING:
    import psutil

MAX_SHARE = 0.05
_SECONDS = 60.0
_WARM_UP_S = 10.0
_START_S = 120.0
_RANKS = 2
_SAMPLES = """
    SELECT count(*), count(DISTINCT name) FROM samples
    WHERE name LIKE 'host.%' OR name LIKE 'net.%' OR name LIKE 'gpu.%' OR name LIKE 'disk.%'
"""


@dataclass(frozen=True, kw_only=True)
class Shares:
    """Of one core.

    Attributes:
        collector: the collector itself; ``readers``: its children.
        samples, names: what its samplers have recorded, and of how many things.
    """

    collector: float
    readers: float
    watchdog: float
    samples: int
    names: int


def measure(seconds: float = _SECONDS) -> list[Row]:
    """A watched trainer for a minute."""
    shares = meter(seconds)
    return [
        Row(
            name="daemons: CPU of the collector with all samplers at 1 Hz",
            value=shares.collector + shares.readers,
            unit="of a core",
            rounds=1,
            target=f"<= {MAX_SHARE}",
            met=shares.collector + shares.readers <= MAX_SHARE,
            note=f"{shares.readers:.4f} of it by its children; {_RANKS} watched ranks, "
            f"{shares.samples} samples of {shares.names} things in {seconds:.0f} s",
        ),
        Row(
            name="daemons: CPU of the watchdog",
            value=shares.watchdog,
            unit="of a core",
            rounds=1,
        ),
    ]


def meter(seconds: float) -> Shares:
    """Train, wait until all has begun, and meter."""
    arguments = ("--steps", "1000000", "--log-every", "50")
    trial = Trial(trainer="ddp", way="watch", ranks=_RANKS, arguments=arguments)
    with temporary_home("daemons") as home, Collecting(home=home) as daemon:
        with Job(trial.command(), home, trial.variables(home)) as job:
            job.wait_for(lambda: "step 50 " in job.text, _START_S)
            time.sleep(_WARM_UP_S)
            watchdog = _watchdog(job)
            before = _spent(daemon, watchdog)
            start = time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - start
            after = _spent(daemon, watchdog)
        collector, readers, watched = ((b - a) / passed for a, b in zip(before, after, strict=True))
        samples, names = _sampled(daemon)
    return Shares(
        collector=collector, readers=readers, watchdog=watched, samples=samples, names=names
    )


def _watchdog(job: Job) -> psutil.Process:
    for process in job.processes():
        if "opsuite.watchdog" in process.cmdline():
            return process
    raise AssertionError("watch() started no watchdog")


def _spent(daemon: Collecting, watchdog: psutil.Process) -> tuple[float, float, float]:
    return cpu_s(daemon.process), children_cpu_s(daemon.process), cpu_s(watchdog)


def _sampled(daemon: Collecting) -> tuple[int, int]:
    with daemon.connect() as client:
        [(samples, names)] = client.rows(_SAMPLES)
    return int(samples), int(names)
