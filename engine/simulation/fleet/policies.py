"""Ways to serve on a fleet, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.simulation.fleet.baselines import BASELINES
from engine.simulation.fleet.elastic import ESP

if TYPE_CHECKING:
    from collections.abc import Mapping

    from engine.simulation.fleet.fleet_serving import FleetServing

FLEET_POLICIES: Mapping[str, FleetServing] = {each.name: each for each in (ESP, *BASELINES)}


def find_fleet_policy(name: str) -> FleetServing:
    """Raises:
    UsageError: there is no such policy; lists those that are.
    """
    if name not in FLEET_POLICIES:
        raise UsageError(
            f"no policy of fleets is named {name}",
            where="--policy",
            remedy=f"use some of: {', '.join(FLEET_POLICIES)}",
        )
    return FLEET_POLICIES[name]
