"""How long one iteration of a model takes, by a few terms.

As DistServe (arXiv 2401.09670, section 4) has it: a prefill takes ``a + b sum(length) +
c sum(length^2)``, a decode ``a + b sum(context) + c batch`` with other terms for large batches.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillTerms:
    """Seconds: of every iteration, of each token, and of each token squared (attention).

    ``sequence``: of each sequence whose tokens are computed, 0 in DistServe's form. It matters
    where iterations are short: it has an attention of its own beside that of all decodes.
    """

    constant: float
    token: float
    square: float
    sequence: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeTerms:
    """Seconds: of every iteration, of each token of context, and of each sequence."""

    constant: float
    context: float
    sequence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of one model on one set of devices.

    Three things the terms leave open are settled here:

    - An iteration that has prefills and decodes reads the weights once. It takes what its decodes
      take alone, or the prefills' constant if that is more, and on top what each token of the
      prefills adds.
    - A chunk of ``n`` tokens after ``k`` cached ones attends to ``(k + n)^2 - k^2`` of the prompt's
      square, so the chunks of a prompt add up to the prompt. But it reads all ``k`` once, as a
      decode does, and takes at least that time for them.
    - A term below 0, which is a fit's noise, counts as 0 (:func:`latency_of`).

    Attributes:
        large_batch: the number of sequences from which ``large`` holds instead of ``small``.
    """

    prefill: PrefillTerms
    small: DecodeTerms
    large: DecodeTerms
    large_batch: int

    def scaled(self, factor: float) -> Latency:
        """Of a device on which everything takes so many times as long."""
        return replace(
            self,
            prefill=PrefillTerms(**_times(factor, self.prefill)),
            small=DecodeTerms(**_times(factor, self.small)),
            large=DecodeTerms(**_times(factor, self.large)),
        )

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        """Of one sequence's chunk alone."""
        return self.prefill.constant + self.added_s(tokens, cached)

    def decode_s(self, batch: int, context_tokens: int) -> float:
        """Of so many sequences with so much context in all; ``batch`` is at least 1."""
        terms = self.small if batch < self.large_batch else self.large
        return terms.constant + terms.context * context_tokens + terms.sequence * batch

    def added_s(self, tokens: int, cached: int = 0) -> float:
        """What a chunk adds to an iteration, which pays the constant only once."""
        terms = self.prefill
        before = max(2 * terms.square * tokens, self.small.context) * cached
        alone = terms.sequence + terms.token * tokens + terms.square * tokens * tokens
        return alone + before

    def iteration_s(
        self, prefills: Sequence[tuple[int, int]], batch: int, context_tokens: int
    ) -> float:
        """Of an iteration with these prefills (tokens, cached before) and decodes together."""
        added = 0.0
        for tokens, cached in prefills:
            added += self.added_s(tokens, cached)
        decodes = self.decode_s(batch, context_tokens) if batch else 0.0
        return max(decodes, self.prefill.constant) + added if prefills else decodes


def _times(factor: float, terms: PrefillTerms | DecodeTerms) -> dict[str, float]:
    return {name: factor * term for name, term in asdict(terms).items()}


def latency_of(
    prefill: tuple[float, float, float],
    small: tuple[float, float, float],
    large: tuple[float, float, float] | None = None,
    large_batch: int = 0,
) -> Latency:
    """From terms in seconds, in the order of the formulas; without ``large`` there is one kind."""
    a, b, c = (max(0.0, term) for term in prefill)
    return Latency(
        prefill=PrefillTerms(constant=a, token=b, square=c),
        small=_decode(small),
        large=_decode(large or small),
        large_batch=large_batch,
    )


def _decode(terms: tuple[float, float, float]) -> DecodeTerms:
    a, b, c = (max(0.0, term) for term in terms)
    return DecodeTerms(constant=a, context=b, sequence=c)
