"""What policies know of an engine's speed."""

from __future__ import annotations

from typing import Protocol


class Profile(Protocol):
    """Measured with the device synchronised: a launch's time says nothing of a prompt's length."""

    def prefill_s(self, tokens: int, cached: int = 0) -> float:
        """Seconds of an iteration that computes so many tokens of one job, after ``cached`` ones
        whose keys and values exist."""
        ...

    def decode_s(self, batch: int, context_tokens: int) -> float:
        """Seconds of an iteration that gives ``batch`` jobs a token each, whose keys and values
        are ``context_tokens`` in all."""
        ...
