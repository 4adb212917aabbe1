"""``opsuite simulate serve`` with policies of fleets: which instances serve together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from opsuite.output import narrate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.request import Workload
    from opsuite.simulated_fleet import ComparedFleets, Served

_INSTANCES = 4
_KV_TOKENS = 210_000  # of an instance
_LINK_GB_S = 25.0
_GB = 10**9


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """As given on the command line; None: not given."""

    instances: int | None
    tp: int | None
    costs: Path | None
    max_batch: int | None
    kv_tokens: int | None
    link_gb_s: float | None


def is_fleet(names: Sequence[str], instances: int | None) -> bool:
    """Whether policies are of fleets: all that engines have, too, are so where ``--instances`` is
    given, or one beside them is of fleets only."""
    from engine.simulation.fleet.policies import FLEET_POLICIES
    from engine.simulation.serve.comparison import POLICIES

    only = FLEET_POLICIES.keys() - set(POLICIES)
    return instances is not None or any(name in only for name in names)


def all_of_fleets() -> list[str]:
    """The names of their policies."""
    from engine.simulation.fleet.policies import FLEET_POLICIES

    return list(FLEET_POLICIES)


def check_options(not_of_fleets: Mapping[str, object]) -> None:
    """Raises:
    UsageError: an option was given that fleets do not have.
    """
    given = [name for name, value in not_of_fleets.items() if value is not None]
    if given:
        raise UsageError(
            f"a fleet has no {given[0]}", where=given[0], remedy="leave it out, or --instances"
        )


def make_set_up(options: FleetOptions) -> FleetSetUp:
    """LoongServe's where nothing is given.

    Raises:
        UsageError: the costs cannot be read, or have no such tensor parallelism.
        DataError: their content cannot be used.
    """
    from engine.profiles.profile import read_profile
    from engine.simulation.fleet.set_up import NO_CAP, TP, loongserve_set_up, profiled_set_up

    instances = options.instances or _INSTANCES
    max_batch = options.max_batch or NO_CAP
    if options.costs is None:
        tp = options.tp or TP
        set_up = loongserve_set_up(
            instances=instances,
            tp=tp,
            kv_tokens=options.kv_tokens or _KV_TOKENS * tp // TP,
            max_batch=max_batch,
        )
        _tell_fit()
    else:
        profile = read_profile(options.costs)
        set_up = profiled_set_up(
            profile,
            instances=instances,
            tp=options.tp or min(each.op for each in profile.configurations),
            kv_tokens=options.kv_tokens or _KV_TOKENS,
            link_bytes_per_s=(options.link_gb_s or _LINK_GB_S) * _GB,
            max_batch=max_batch,
        )
    _tell_extrapolated(set_up)
    return set_up


def compare_fleets(
    set_up: FleetSetUp, names: Sequence[str], workload: Workload, seed: int
) -> ComparedFleets:
    """One after the other; who cannot serve it is left out, and told.

    Raises:
        UsageError: there is no such policy, or none of them can serve it.
    """
    from engine.simulation.fleet.policies import find_fleet_policy
    from opsuite.simulated_fleet import ComparedFleets

    policies = [find_fleet_policy(name) for name in names]
    served: list[Served] = []
    left_out: dict[str, str] = {}
    for policy in policies:
        narrate(f"{policy.name} ...")
        try:
            served.append(_serve(set_up, policy.name, workload))
        except UsageError as error:
            if len(policies) == 1:
                raise
            narrate(f"{policy.name} is left out: {error.what}")
            left_out[policy.name] = error.what
    return ComparedFleets(
        set_up=set_up, workload=workload, seed=seed, served=served, left_out=left_out
    )


def _serve(set_up: FleetSetUp, name: str, workload: Workload) -> Served:
    from engine.simulation.fleet.policies import find_fleet_policy
    from engine.simulation.fleet.slo import measure_slowdown
    from engine.simulation.serve.metrics import measure
    from opsuite.simulated_fleet import Served

    variant = find_fleet_policy(name).tuned(workload, set_up)
    outcome = replace(variant.serve(workload, set_up), policy=name)
    return Served(
        variant=variant.name,
        metrics=measure(outcome),
        slowdown=measure_slowdown(outcome, set_up.whole),
    )


def _tell_fit() -> None:
    """How far the times are off those that were measured."""
    from engine.simulation.fleet.device_model import fit_devices, residuals
    from engine.simulation.fleet.measured import CELLS

    for each in residuals(fit_devices(CELLS), CELLS):
        prefill, decode = each.prefill, each.decode
        narrate(f"{each.cell.name}: prefill {prefill:+.1%}, decode {decode:+.1%} off the measured")


def _tell_extrapolated(set_up: FleetSetUp) -> None:
    degrees = range(1, set_up.instances + 1)
    unknown = [str(each) for each in degrees if each not in set_up.base.measured]
    if unknown:
        narrate(f"not measured but extrapolated: {', '.join(unknown)} instances of tp {set_up.tp}")
