"""The scaling information base: how long an iteration of any group takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from collectors.errors import UsageError
from engine.elastic.degree_law import DegreeLaw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from engine.profiles.latency import Latency
    from engine.profiles.profile import Configuration, Profile


class InformationBase:
    """By degree of parallelism (DoP): the number of instances, each of the same tensor parallelism.

    A degree that was not measured is extrapolated.

    Args:
        measured: one at least.
        kv_bytes_per_token: keys and values of a token, over all devices of an instance.
        link_bytes_per_s: from one instance to another, each way, over all its links.
        extrapolate: what others take; by default by :class:`~engine.elastic.degree_law.DegreeLaw`.
    """

    def __init__(
        self,
        measured: Mapping[int, Latency],
        *,
        kv_bytes_per_token: int,
        link_bytes_per_s: float,
        extrapolate: Callable[[int], Latency] | None = None,
    ) -> None:
        self.measured = frozenset(measured)
        self.kv_bytes_per_token = kv_bytes_per_token
        self.link_bytes_per_s = link_bytes_per_s
        self._latencies = dict(measured)
        self._extrapolate = extrapolate or DegreeLaw(measured).latency

    def latency(self, dop: int) -> Latency:
        """Of so many instances, at least one."""
        found = self._latencies.get(dop)
        if found is None:
            assert dop > 0, "somebody computes"
            found = self._latencies[dop] = self._extrapolate(dop)
        return found

    def iteration_s(
        self, dop: int, prefills: Sequence[tuple[int, int]], batch: int, context_tokens: int
    ) -> float:
        """Of a group's iteration.

        Args:
            prefills: tokens, and those that are cached before, of each.
            batch: requests that decode, whose masters share the work.
            context_tokens: that these have in all.
        """
        return self.latency(dop).iteration_s(prefills, batch, context_tokens)

    def prefill_s(self, dop: int, lengths: Iterable[int]) -> float:
        """Of an iteration that computes these prompts from their beginnings, and nothing else."""
        return self.latency(dop).iteration_s([(length, 0) for length in lengths], 0, 0)

    def transfer_s(self, tokens: int) -> float:
        """Of keys and values from one instance to another."""
        return tokens * self.kv_bytes_per_token / self.link_bytes_per_s


def of_profile(profile: Profile, *, tp: int, link_bytes_per_s: float) -> InformationBase:
    """From all configurations of a profile that have this tensor parallelism and one stage.

    Raises:
        UsageError: there is none.
        DataError: one has too few samples.
    """
    found = {each.sp: each.fit().latency for each in profile.configurations if _fits(each, tp)}
    if not found:
        raise UsageError(
            f"the profile of {profile.model} has no op={tp} pp=1",
            where="--tp",
            remedy=f"use {', '.join(each.name for each in profile.configurations)}",
        )
    return InformationBase(
        found, kv_bytes_per_token=profile.kv_bytes_per_token, link_bytes_per_s=link_bytes_per_s
    )


def _fits(configuration: Configuration, tp: int) -> bool:
    return configuration.op == tp and configuration.pp == 1
