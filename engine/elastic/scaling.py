"""Step 4: where keys and values are kept after a prefill, so that its group can scale down."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from engine.elastic.assignment import Share


def scale_down(
    tokens: int, growth: int, order: Sequence[int], room: Mapping[int, int]
) -> tuple[Share, ...]:
    """The fewest instances that hold a prompt's tokens, in contiguous parts.

    Args:
        growth: tokens more that it will need soon where its last ones are.
        order: instances of its group, those that are to keep it first.
        room: free slots of each; in all at least ``tokens``.

    Returns:
        The first that has room for everything, else for the tokens alone; else parts on those with
        the most room, the last of which has the most left.
    """
    for need in (tokens + growth, tokens):
        for each in order:
            if room[each] >= need:
                return ((each, tokens),)
    return _spread(tokens, sorted(order, key=lambda each: -room[each]), room)


def _spread(tokens: int, order: Sequence[int], room: Mapping[int, int]) -> tuple[Share, ...]:
    shares: list[Share] = []
    for each in order:
        part = min(tokens, room[each])
        if part > 0:
            shares.append((each, part))
            tokens -= part
    assert not tokens, "there is room for all of them"
    return tuple(shares)
