"""What a seed decides beforehand: the fleet, its requests, and how often what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.elastic.registry import FLEET_POLICIES
from engine.scheduling.limits import Limits
from engine.scheduling.registry import LIVE_POLICIES
from engine.simulation.serving_world.scenario import Fault, Scenario
from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from random import Random

CHAOS_S = 20.0
"""How long requests come and instances die; then all heals."""
HEALED_S = 1200.0
"""Within which all that is left must have ended."""


class FleetFault(StrEnum):
    """What can happen to an instance."""

    KILL_AT_WORK = "instance killed in the middle of a step"
    KILL_AT_END = "instance killed when it had computed its part, and not said so"
    KILL_IDLE = "instance killed that had nothing to do"
    STALL = "instance that stands still in a step"


@dataclass(frozen=True, kw_only=True)
class FleetScenario:
    """Of one seed.

    Attributes:
        policy: of the fleet; ``requests.policy`` is the order.
        requests: what comes, and how clients behave.
        slots: of each instance.
        rates: chance of each fault: of a step, or of an idle instance each second.
    """

    policy: str
    instances: int
    slots: int
    prefill_tokens: int
    requests: Scenario
    rates: dict[FleetFault, float]


def fleet_scenario(seed: int) -> FleetScenario:
    """Half of the seeds have at most one kind of fault."""
    chance = stream(seed, "fleet scenario")
    policy = chance.choice(FLEET_POLICIES)
    instances, slots = chance.randint(2, 4), chance.randint(60, 400)
    wide = policy in ("esp", "static-sp") and chance.random() < 0.5
    some = {*Fault, *FleetFault} if chance.random() < 0.5 else _one(chance)
    return FleetScenario(
        policy=policy,
        instances=instances,
        slots=slots,
        prefill_tokens=chance.choice([4, 16, 64]),
        requests=Scenario(
            policy=chance.choice(LIVE_POLICIES),
            limits=Limits(
                max_batch=chance.randint(1, 8),
                blocks=slots * instances * 3 // 4 if wide else slots - 2,
                block_tokens=1,
            ),
            stages=1,
            arrivals_per_s=chance.choice([1.0, 3.0, 8.0]),
            prompt_tokens=chance.choice([5, 30, 80]),
            output_tokens=chance.randint(2, 30),
            families=chance.randint(1, 5),
            iteration_s=chance.choice([0.01, 0.03]),
            rates={
                fault: rate
                for fault, rate in ((Fault.NAN, 0.05), (Fault.ERROR, 0.03), (Fault.CANCEL, 0.2))
                if fault in some
            },
        ),
        rates={
            fault: rate * chance.choice([0.3, 1.0, 3.0])
            for fault, rate in (
                (FleetFault.KILL_AT_WORK, 0.01),
                (FleetFault.KILL_AT_END, 0.01),
                (FleetFault.KILL_IDLE, 0.05),
                (FleetFault.STALL, 0.01),
            )
            if fault in some
        },
    )


def _one(chance: Random) -> set[Fault | FleetFault]:
    return set(chance.sample([*Fault, *FleetFault], chance.randint(0, 1)))
