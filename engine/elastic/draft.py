"""The room that is left while a decision is made, and what has been given of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.elastic.assignment import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterable

    from engine.elastic.assignment import Share
    from engine.elastic.snapshot import Snapshot, Waiting


class Part(NamedTuple):
    """What a group has to compute of a waiting request.

    Attributes:
        cached: tokens that it need not compute.
        due: those that it has to.
        fresh: see :class:`~engine.elastic.assignment.Chunk`.
    """

    cached: int
    due: int
    fresh: bool


class Draft:
    """Of one decision.

    Attributes:
        free: slots of each instance; those that its decodes are about to take are not among them.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.free = {each.number: max(0, each.free - each.decodes) for each in snapshot.instances}

    def part(self, waiting: Waiting, group: Iterable[int]) -> Part:
        """Who has a prefix that others computed, and is to be computed elsewhere, begins at its
        beginning."""
        if waiting.begun or self._has(waiting, frozenset(group)):
            return Part(waiting.cached, waiting.due, fresh=False)
        return Part(0, waiting.known, fresh=True)

    def room(self, instances: Iterable[int]) -> int:
        """Free slots of all of them."""
        return sum(self.free[each] for each in instances)

    def chunk(self, waiting: Waiting, part: Part, tokens: int, order: Iterable[int]) -> Chunk:
        """So many of its tokens, kept by these instances: what does not fit into one lies on the
        next. All of it fits."""
        if not waiting.begun and not part.fresh:
            self._take(waiting.held)
        keep, left = [], tokens
        for instance in order:
            share = min(left, self.free[instance])
            if share > 0:
                keep.append((instance, share))
                left -= share
        assert not left, "there is room for what is computed"
        self._take(keep)
        return Chunk(waiting.number, tokens, tuple(keep), fresh=part.fresh)

    def _has(self, waiting: Waiting, group: frozenset[int]) -> bool:
        return all(
            each in group and self.free.get(each, 0) >= tokens for each, tokens in waiting.held
        )

    def _take(self, shares: Iterable[Share]) -> None:
        for instance, tokens in shares:
            self.free[instance] -= tokens
