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
    rush, rush_s: how many times the delay of those that wait counts, since whoever comes before
        they are done waits for them, too: so many, and once more for every ``rush_s`` seconds that
        all instances need for their prompts.
    price: of a second of an instance, as a part of what that delay of the whole fleet would cost.
    beside_s, backlog_s: when all instances need so long for the prompts that wait (backlog), those
        that decode compute some, too, in slices so long beside: decodes take about three times as
        long then, and the fleet keeps up with a fifth more.
    """

    slice_s: float = 0.25
    long_s: float = 0.1
    hold_s: float = 0.05
    patience: float = 1000.0
    overtaken: float = 10_000.0
    rush: float = 4.0
    rush_s: float = 10.0
    price: float = 0.25
    beside_s: float = 0.03
    backlog_s: float = 5.0
