"""What a seed decides beforehand: the job, its hosts, and how often what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.resilience.config import ResilienceConfig
from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from random import Random

STEP_S = 1.0
"""A step's usual length."""
CHECKPOINT_EVERY = 15
CHAOS_S = 150.0
"""How long things go wrong; then all heals."""
HEALED_S = 1500.0
"""Within which a healed job must be over."""


class Fault(StrEnum):
    """What can go wrong, or be asked for."""

    KILL = "rank killed"
    CRASH = "rank crashed"
    ERROR = "rank raised an error"
    HANG = "rank hung"
    NAN = "not a number"
    GRADIENT = "corrupted gradient"
    WEIGHTS = "corrupted weights"
    STUCK = "ranks that do not stop"
    SLOW_START = "ranks that do not start"
    BAD_HOST = "bad host"
    EXECUTOR = "executor crashed"
    HOST_FREEZE = "host frozen"
    EXECUTOR_FREEZE = "executor frozen"
    DRIVER = "driver crashed"
    DRIVER_TORN = "driver crashed before it had written"
    DRIVER_MIDWAY = "driver crashed between two orders"
    ZOMBIE = "driver frozen and replaced"
    DISCONNECT = "connection broken"
    STALL = "connection stalled"
    ONE_WAY = "one-way partition"
    PARTITION = "partition"
    DAMAGE = "checkpoint damaged"
    CHECK_HANG = "self-check hung"
    EVICT = "host evicted"
    PAUSE = "job paused"
    RESTART = "job restarted"
    SLOW_HOST = "host found slow"
    EVERY_TIME = "rank fails at one step every time"


RARE = frozenset({Fault.EVICT, Fault.EVERY_TIME})
"""These come at most once."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Of one seed.

    Attributes:
        standbys: hosts beyond those that train.
        every_s: of each kind of fault, the mean time between two.
        fails_at: the step at which a rank fails every time; 0: none.
        small: whether one of the standbys has too few slots.
    """

    seed: int
    config: ResilienceConfig
    ranks_per_host: int
    standbys: int
    last_step: int
    every_s: dict[Fault, float]
    fails_at: int = 0
    small: bool = False

    def slots(self, host: str) -> int:
        """Ranks that a host can run."""
        return self.ranks_per_host - int(self.small and host == self.hosts[0])

    @property
    def hosts(self) -> tuple[str, ...]:
        """All names."""
        return tuple(f"host{index}" for index in range(self.config.hosts + self.standbys))

    @property
    def ranks(self) -> int:
        """Of an attempt."""
        return self.config.hosts * self.ranks_per_host


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = stream(seed, "scenario")
    every_s = _rates(chance)
    last_step = chance.randint(30, 60)
    fails_at = chance.randint(2, last_step) if every_s.pop(Fault.EVERY_TIME, 0.0) else 0
    standbys = chance.choice((0, 1, 1, 2, 3))
    return Scenario(
        seed=seed,
        config=_config(chance),
        ranks_per_host=chance.choice((1, 2)),
        standbys=standbys,
        small=standbys > 0 and chance.random() < 0.2,
        last_step=last_step,
        every_s=every_s,
        fails_at=fails_at,
    )


def _rates(chance: Random) -> dict[Fault, float]:
    """Half of all seeds have at most one kind of fault: what breaks them is told more easily."""
    most = chance.choice((0, 1, 1, 1, 1)) if chance.random() < 0.5 else chance.randint(2, 12)
    kinds = chance.sample(list(Fault), most)
    if Fault.EVERY_TIME in kinds:  # alone: else other faults may end the job before
        kinds = [Fault.EVERY_TIME]
    if Fault.DAMAGE in kinds and most > 1 and Fault.EXECUTOR not in kinds:
        kinds.append(Fault.EXECUTOR)  # the disk is needed when memory is lost
    slow_down = max(1.0, most / 3)  # a job that faults all the time does nothing else
    return {kind: chance.uniform(8.0, 60.0) * slow_down for kind in kinds}


def _config(chance: Random) -> ResilienceConfig:
    """Time-outs are short beside those of a live job, so that a seed costs milliseconds."""
    return ResilienceConfig(
        recover=True,
        hosts=chance.choice((1, 2, 2, 3, 3)),
        snapshot_every=chance.choice((4, 5, 8)),
        beat_s=2.0,
        lost_after_s=7.0,
        reconnect_s=2.0,
        overdue_factor=4.0,
        overdue_least_s=8.0,
        start_s=40.0,
        stop_s=8.0,
        gather_s=10_000.0,
        adopt_s=8.0,
        orphan_s=40.0,
        check=chance.choice(("never", "suspects", "suspects", "always")),
        check_s=15.0,
        block_s=30.0,
        accused_most=3,
        loop_after=5,
    )
