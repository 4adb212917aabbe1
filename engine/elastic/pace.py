"""How long an elastic fleet computes, holds and waits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Attributes:
    slice_s: that prompts add to an iteration at most: no shorter prompt waits for longer.
    long_s: an iteration that takes longer computes prompts; a prompt that does is long.
    hold_s: that instances wait for another, which is to take over their decodes.
    patience: a request that has waited for so many times as long as its prompt takes on all
        instances counts double, and once more for each time that it does again.
    overtaken: times the same, after which no other begins while there is no room for it.
    """

    slice_s: float = 0.25
    long_s: float = 0.1
    hold_s: float = 0.05
    patience: float = 50.0
    overtaken: float = 200.0
