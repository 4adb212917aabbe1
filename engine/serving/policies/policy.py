"""The interface of every scheduler, live and simulated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a scheduler may know of a request when it arrives."""

    number: int
    prompt_tokens: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """What one engine can hold at a time.

    Attributes:
        max_batch: requests that run at once.
        kv_tokens: tokens whose keys and values fit in the cache.
    """

    max_batch: int
    kv_tokens: int


@dataclass(frozen=True, kw_only=True)
class Iteration:
    """The decision: numbers of the requests to prefill, then of those to advance by one token."""

    prefill: tuple[int, ...] = ()
    decode: tuple[int, ...] = ()


class Policy(Protocol):
    """Events in, decisions out. ``now`` is in seconds of a clock that the caller owns.

    A prefill also gives its request's first token. Whoever runs the iteration reports ``token``
    for each token and then, of those that ended, ``finished``.
    """

    def arrived(self, job: Job, now: float) -> None:
        """A request with a new number wants to run."""
        ...

    def token(self, number: int, now: float) -> None:
        """A scheduled request got one more token."""
        ...

    def finished(self, number: int, now: float) -> None:
        """A request ended; what it held is free again."""
        ...

    def cancelled(self, number: int, now: float) -> None:
        """A request, waiting or running, was withdrawn; what it held is free again."""
        ...

    def schedule(self, now: float) -> Iteration:
        """What to run next; empty when nothing can run."""
        ...
