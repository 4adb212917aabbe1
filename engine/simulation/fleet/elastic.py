"""Elastic sequence parallelism in simulated time, by the manager and the policy of live fleets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.elastic.manager import Manager
from engine.elastic.registry import make_fleet_policy
from engine.scheduling.fcfs import FirstComeFirstServed
from engine.simulation.fleet.fleet_serving import FleetServing, Variant
from engine.simulation.fleet.simulator import FleetSimulator

if TYPE_CHECKING:
    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Workload

_NAME = "esp"
_PREFILL_TOKENS = 8192  # of prompts that an instance computes in an iteration


def _esp(workload: Workload, set_up: FleetSetUp) -> Outcome:
    """Which order a token-level policy has matters little: the fleet's has its own."""
    manager = Manager(
        make_fleet_policy(_NAME, set_up.base, prefill_tokens=_PREFILL_TOKENS),
        FirstComeFirstServed(),
        set_up.base,
        slots=set_up.slots,
        max_batch=set_up.max_batch,
    )
    return FleetSimulator(manager, workload).run()


def _all(set_up: FleetSetUp) -> int:
    return set_up.instances * set_up.kv_tokens


ESP = FleetServing(name=_NAME, variants=(Variant(name="", serve=_esp),), longest=_all)
