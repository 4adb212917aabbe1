"""What a seed decides beforehand: the engine, its requests, and how often what goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from engine.scheduling.limits import Limits, MakeRoom
from engine.scheduling.registry import LIVE_POLICIES
from engine.simulation.timeline import stream

if TYPE_CHECKING:
    from random import Random

CHAOS_S = 60.0
"""How long requests come and things go wrong; then all heals."""
HEALED_S = 1200.0
"""Within which all that is left must have ended."""
VOCABULARY = 97


class Fault(StrEnum):
    """What can go wrong."""

    KILL = "engine killed between two iterations"
    KILL_SILENT = "engine killed before it told what it had computed"
    KILL_STARTING = "engine killed before it had computed what it had begun"
    POISON = "request that kills every engine"
    NAN = "scores that are not finite"
    ERROR = "request that cannot be computed"
    CANCEL = "client gone"
    SLOW_MOVE = "move that takes long"
    BURST = "burst of requests"
    STALL = "engine that stands still"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Of one seed.

    Attributes:
        stages: of a pipeline: as many iterations are in flight.
        arrivals_per_s, prompt_tokens, output_tokens: means.
        families: texts that prompts begin with.
        rates: chance of each fault, for each request or iteration that it could strike.
    """

    policy: str
    limits: Limits
    stages: int
    arrivals_per_s: float
    prompt_tokens: int
    output_tokens: int
    families: int
    iteration_s: float
    rates: dict[Fault, float]


def scenario(seed: int) -> Scenario:
    """Half of the seeds have at most one kind of fault."""
    chance = stream(seed, "scenario")
    make_room = chance.choice(list(MakeRoom))
    block_tokens = chance.choice([1, 4, 16])
    limits = Limits(
        max_batch=chance.randint(1, 12),
        blocks=chance.randint(200, 1000) // block_tokens,
        block_tokens=block_tokens,
        host_blocks=0
        if make_room is MakeRoom.RECOMPUTE
        else chance.randint(0, 1000 // block_tokens),
        prefill_tokens=chance.choice([None, 8, 64]),
        make_room=make_room,
        idle_blocks=chance.choice([0, 2, 8]),
    )
    prompt = chance.randint(2, 40)
    return Scenario(
        policy=chance.choice(LIVE_POLICIES),
        limits=limits,
        stages=chance.choice([1, 1, 2, 3]),
        arrivals_per_s=chance.choice([1.0, 4.0, 12.0]),
        prompt_tokens=prompt,
        output_tokens=chance.randint(2, 40),
        families=chance.randint(1, 5),
        iteration_s=chance.choice([0.01, 0.03]),
        rates=_rates(chance),
    )


def _rates(chance: Random) -> dict[Fault, float]:
    usual = {
        Fault.KILL: 0.002,
        Fault.KILL_SILENT: 0.002,
        Fault.KILL_STARTING: 0.002,
        Fault.POISON: 0.01,
        Fault.NAN: 0.05,
        Fault.ERROR: 0.03,
        Fault.CANCEL: 0.2,
        Fault.SLOW_MOVE: 0.3,
        Fault.BURST: 0.02,
        Fault.STALL: 0.003,
    }
    some = list(Fault)
    if chance.random() < 0.5:
        some = chance.sample(some, chance.randint(0, 1))
    return {fault: usual[fault] * chance.choice([0.3, 1.0, 3.0]) for fault in some}
