"""The policies of fleets by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.elastic.disaggregated import Disaggregated
from engine.elastic.esp import ElasticSequenceParallelism
from engine.elastic.replicas import Replicas
from engine.elastic.static_sp import StaticSequenceParallel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.elastic.fleet_policy import FleetPolicy
    from engine.elastic.information_base import InformationBase

    Make = Callable[[InformationBase, int], FleetPolicy]

_POLICIES: Mapping[str, Make] = {
    ElasticSequenceParallelism.name: lambda base, tokens: ElasticSequenceParallelism(
        base, prefill_tokens=tokens
    ),
    Replicas.name: lambda _, tokens: Replicas(prefill_tokens=tokens),
    StaticSequenceParallel.name: lambda _, tokens: StaticSequenceParallel(prefill_tokens=tokens),
    Disaggregated.name: lambda _, tokens: Disaggregated(prefill_tokens=tokens),
}

FLEET_POLICIES = tuple(_POLICIES)


def make_fleet_policy(name: str, base: InformationBase, *, prefill_tokens: int) -> FleetPolicy:
    """A policy that has seen nothing yet.

    Args:
        prefill_tokens: of prompts that one instance computes in an iteration.

    Raises:
        UsageError: no policy has that name.
    """
    if name not in _POLICIES:
        raise UsageError(
            f"there is no fleet policy {name!r}",
            where="--policy",
            remedy=f"take one of {', '.join(FLEET_POLICIES)}",
        )
    return _POLICIES[name](base, prefill_tokens)
