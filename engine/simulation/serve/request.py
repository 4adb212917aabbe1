"""Requests as a simulation knows them: with the length of their output, which no scheduler sees."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Attributes:
    arrival_s: since the beginning.
    prompt_tokens, output_tokens: at least 1 each.
    """

    arrival_s: float
    prompt_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        """In all."""
        return self.prompt_tokens + self.output_tokens


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Requests in the order of their arrival.

    Attributes:
        name: for people.
        dropped: requests that were left out, as they are longer than the workload allows.
    """

    name: str
    requests: tuple[Request, ...]
    dropped: int = 0

    @property
    def span_s(self) -> float:
        """From the first arrival to the last."""
        return self.requests[-1].arrival_s - self.requests[0].arrival_s if self.requests else 0.0

    @property
    def rate(self) -> float | None:
        """Arrivals a second; None where all arrive at once."""
        return (len(self.requests) - 1) / self.span_s if self.span_s > 0 else None

    def scaled(self, rate: float) -> Workload:
        """The same requests, from 0 s on, at this mean rate.

        Raises:
            ValueError: all arrive at once, so that their times cannot be scaled.
        """
        if self.rate is None:
            raise ValueError("all requests arrive at once")
        first, factor = self.requests[0].arrival_s, self.rate / rate
        return self._at([(each.arrival_s - first) * factor for each in self.requests])

    def at_once(self) -> Workload:
        """The same requests, all at 0 s."""
        return self._at([0.0] * len(self.requests))

    def fitting(self, tokens: int) -> Workload:
        """Without the requests that are longer in all."""
        kept = tuple(each for each in self.requests if each.tokens <= tokens)
        left_out = len(self.requests) - len(kept)
        return Workload(name=self.name, requests=kept, dropped=self.dropped + left_out)

    def _at(self, times: list[float]) -> Workload:
        moved = tuple(
            Request(
                arrival_s=time,
                prompt_tokens=each.prompt_tokens,
                output_tokens=each.output_tokens,
            )
            for each, time in zip(self.requests, times, strict=True)
        )
        return Workload(name=self.name, requests=moved, dropped=self.dropped)
