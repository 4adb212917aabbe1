"""A way to serve on a fleet, in the variants of which the best counts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from collectors.errors import UsageError
from engine.simulation.fleet.slo import measure_slowdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.simulation.fleet.set_up import FleetSetUp
    from engine.simulation.serve.life import Outcome
    from engine.simulation.serve.request import Workload

_TRIED = 300  # requests of a workload with which variants are compared


class Serve(Protocol):
    """Serves a workload, each of whose requests fits, to its end."""

    def __call__(self, workload: Workload, set_up: FleetSetUp) -> Outcome:
        """Raises:
        UsageError: the set-up does not say how long iterations take.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Attributes:
    name: for people; "" where there is but one.
    """

    name: str
    serve: Serve


@dataclass(frozen=True, kw_only=True)
class FleetServing:
    """Attributes:
    variants: at least one.
    longest: tokens of the longest request that it can serve.
    """

    name: str
    variants: tuple[Variant, ...]
    longest: Callable[[FleetSetUp], int]

    def check(self, workload: Workload, set_up: FleetSetUp) -> None:
        """Raises:
        UsageError: it cannot serve this workload: says why.
        """
        longest = self.longest(set_up)
        found = max(each.tokens for each in workload.requests)
        if found > longest:
            raise UsageError(
                f"{self.name} cannot serve a request of {found:,} tokens, only of {longest:,}",
                where=workload.name,
                remedy=f"allow more with --kv-tokens, or leave {self.name} out",
            )

    def tuned(self, workload: Workload, set_up: FleetSetUp) -> Variant:
        """The variant with the lowest mean normalised latency of the workload's first 300 requests,
        of those for which the set-up says how long iterations take.

        Raises:
            UsageError: it cannot serve this workload, or there is no such variant.
        """
        self.check(workload, set_up)
        if len(self.variants) == 1:
            return self.variants[0]
        tried = replace(workload, requests=workload.requests[:_TRIED])
        found: list[tuple[float, int]] = []
        why: UsageError | None = None
        for index, variant in enumerate(self.variants):
            try:
                slowdown = measure_slowdown(variant.serve(tried, set_up), set_up.whole)
            except UsageError as error:
                why = error
                continue
            found.append((slowdown.normalised_latency, index))
        if not found:
            assert why is not None, "there are variants"
            raise why
        return self.variants[min(found)[1]]

    def __call__(self, workload: Workload, set_up: FleetSetUp) -> Outcome:
        """By the variant that :meth:`tuned` chooses.

        Raises:
            UsageError: as there.
        """
        outcome = self.tuned(workload, set_up).serve(workload, set_up)
        return replace(outcome, policy=self.name)
