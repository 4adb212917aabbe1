"""Slots that a decision may still give away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.elastic.assignment import Share
    from engine.elastic.snapshot import Snapshot


class Room:
    """Of each instance, while a decision is made.

    Attributes:
        free: slots that are nobody's, less one for the next token of each decode.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self.free = {each.number: max(0, each.free - each.decodes) for each in snapshot.instances}
        self._decodes = {each.number: each.decodes for each in snapshot.instances}
        self._promised = dict.fromkeys(self.free, 0)
        for each in snapshot.waiting:
            if each.begun and each.held:
                self._promised[each.held[0][0]] += each.due
        self._empty = not any(self._decodes.values()) and not any(self._promised.values())

    def within(self, group: Iterable[int]) -> int:
        """Slots of a group."""
        return sum(self.free[each] for each in group)

    def admits(self, tokens: int, growth: int, group: Sequence[int]) -> bool:
        """Whether a prompt of so many tokens may begin: what is there already can come to its end
        all the same, as far as is known. If there is nothing, it may if it fits.

        Args:
            growth: tokens that a request is expected to give.
        """
        free = self.within(group)
        if self._empty:
            return free >= tokens
        promised = sum(self._promised[each] for each in group)
        later = sum(self._decodes[each] for each in group) * growth // 2
        return free - promised - later >= tokens + growth

    def begin(self, shares: Sequence[Share], due: int) -> None:
        """A chunk that is not its prompt's first is kept so; ``due`` is left of the prompt."""
        self.keep(shares)
        first = shares[0][0]
        self._promised[first] += due
        self._decodes[first] += 1
        self._empty = False

    def keep(self, shares: Iterable[Share]) -> None:
        """They are taken."""
        for instance, tokens in shares:
            self.free[instance] -= tokens
