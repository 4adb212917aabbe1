"""The policies of fleets by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError

if TYPE_CHECKING:
    from engine.elastic.fleet_policy import FleetPolicy
    from engine.elastic.information_base import InformationBase

FLEET_POLICIES = ("esp", "replicas", "static-sp", "disaggregated")


def make_fleet_policy(name: str, base: InformationBase, *, prefill_tokens: int) -> FleetPolicy:
    """A policy that has seen nothing yet.

    Args:
        prefill_tokens: of prompts that one instance computes in an iteration.

    Raises:
        UsageError: no policy has that name.
    """
    raise UsageError(
        f"there is no fleet policy {name!r}",
        where="--policy",
        remedy=f"take one of {', '.join(FLEET_POLICIES)}",
    )
