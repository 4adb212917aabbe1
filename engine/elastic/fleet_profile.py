"""A whole fleet's speed, as a token-level policy sees it: one engine of all instances."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.elastic.information_base import InformationBase


class FleetProfile:
    """A :class:`~engine.scheduling.profile.Profile`."""

    def __init__(self, base: InformationBase, instances: int) -> None:
        self._latency = base.latency(instances)

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        return self._latency.prefill_s(tokens, cached)

    def decode_s(self, batch: int, context_tokens: int) -> float:
        return self._latency.decode_s(batch, context_tokens)
