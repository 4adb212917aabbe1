"""The fleet that is simulated; by default that of LoongServe's evaluation (arXiv 2404.09526)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.elastic.information_base import InformationBase, of_profile
from engine.simulation.fleet.device_model import fit_devices
from engine.simulation.fleet.measured import CELLS, KV_BYTES_PER_TOKEN, NVLINK_BYTES_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from engine.profiles.latency import Latency
    from engine.profiles.profile import Profile

INSTANCES = 4
TP = 2
KV_TOKENS = 210_000  # of an instance of two A800s
NO_CAP = sys.maxsize


@dataclass(frozen=True, kw_only=True)
class FleetSetUp:
    """Attributes:
    source: where times come from, for people.
    base: of instances of ``tp`` devices each.
    split: how long iterations take of one engine of so many instances (sp) of so many devices (tp).
    kv_tokens: whose keys and values fit into one instance.
    max_batch: requests in an iteration, for each instance that computes it.
    """

    model: str
    source: str
    base: InformationBase
    split: Callable[[int, int], Latency]
    instances: int = INSTANCES
    tp: int = TP
    kv_tokens: int = KV_TOKENS
    max_batch: int = NO_CAP

    @property
    def uncapped(self) -> bool:
        """Whether batches may have any number of requests."""
        return self.max_batch == NO_CAP

    @property
    def devices(self) -> int:
        """In all."""
        return self.instances * self.tp

    @property
    def slots(self) -> dict[int, int]:
        """Tokens that each instance has room for, as a manager takes them."""
        return dict.fromkeys(range(self.instances), self.kv_tokens)

    @property
    def whole(self) -> Latency:
        """Of all devices as one instance; of all instances together where that is not known."""
        try:
            return self.split(1, self.devices)
        except UsageError:
            return self.base.latency(self.instances)


def loongserve_set_up(
    instances: int = INSTANCES, tp: int = TP, kv_tokens: int = KV_TOKENS, max_batch: int = NO_CAP
) -> FleetSetUp:
    """Llama-2-7B's shape on A800s: 4 instances of 2 unless told."""
    latency = cache(fit_devices(CELLS).latency)
    measured = [cell.sp for cell in CELLS if cell.tp == tp]
    base = InformationBase(
        {sp: latency(sp, tp) for sp in measured},
        kv_bytes_per_token=KV_BYTES_PER_TOKEN,
        link_bytes_per_s=NVLINK_BYTES_PER_S * tp,
        extrapolate=lambda sp: latency(sp, tp),
    )
    return FleetSetUp(
        model="Llama-2-7B's shape",
        source="8x A800-80G as measured for SOSP'24; see docs/simulation.md",
        base=base,
        split=latency,
        instances=instances,
        tp=tp,
        kv_tokens=kv_tokens,
        max_batch=max_batch,
    )


def profiled_set_up(
    profile: Profile,
    *,
    instances: int,
    tp: int,
    kv_tokens: int,
    link_bytes_per_s: float,
    max_batch: int = NO_CAP,
) -> FleetSetUp:
    """By a profile of ours: its configurations of this tensor parallelism, and those without
    sequence parallelism for baselines of more devices.

    Raises:
        UsageError: none has this tensor parallelism.
        DataError: one has too few samples.
    """
    base = of_profile(profile, tp=tp, link_bytes_per_s=link_bytes_per_s)
    single = {
        each.op: each.fit().latency
        for each in profile.configurations
        if each.sp == each.pp == 1 and each.op != tp
    }
    return FleetSetUp(
        model=profile.model,
        source=f"{profile.origin} on {profile.device}",
        base=base,
        split=lambda sp, wide: _profiled(base, single, tp, sp, wide),
        instances=instances,
        tp=tp,
        kv_tokens=kv_tokens,
        max_batch=max_batch,
    )


def _profiled(
    base: InformationBase, single: Mapping[int, Latency], tp: int, sp: int, wide: int
) -> Latency:
    """Of one engine of ``sp`` instances of ``wide`` devices."""
    if wide == tp:
        return base.latency(sp)
    if sp == 1 and wide in single:
        return single[wide]
    raise UsageError(
        f"the profile has no op={wide} sp={sp}",
        where="--costs",
        remedy=f"measure it (opsuite profile MODEL --tp {wide}), or leave the policy out",
    )
