"""Which slots of one instance are free, as stretches of neighbours."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Stretch(NamedTuple):
    """Slots that are neighbours."""

    start: int
    tokens: int

    @property
    def stop(self) -> int:
        """The one behind the last."""
        return self.start + self.tokens


class SlotPool:
    """A slot holds the keys and values of one token. Any free slots will do, so there is no
    fragmentation; but attention reads neighbours without a copy, so an owner's slots are put side
    by side where that can be, and room behind them is kept for it as long as others find some.
    """

    def __init__(self, slots: int) -> None:
        self._starts: list[int] = []
        self._counts: list[int] = []
        self._kept: dict[int, Stretch] = {}  # by owner, in the order of asking
        self.free = 0
        self._give(Stretch(0, slots))

    def take(self, owner: int, tokens: int, *, expected: int = 0) -> list[Stretch]:
        """So many slots, of which there are enough free: first those that are kept for the owner.

        Args:
            expected: slots that it may want further on.
        """
        assert tokens <= self.free, "slots are free before they are taken"
        found: list[Stretch] = []
        kept = self._kept.pop(owner, None)
        if kept is not None:
            part = min(tokens, kept.tokens)
            found.append(Stretch(kept.start, part))
            tokens -= part
            self.free -= part
            if part < kept.tokens:
                self._kept[owner] = Stretch(kept.start + part, kept.tokens - part)
                return found
        while tokens:
            taken = self._cut(tokens, expected)
            self.free -= min(tokens, taken.tokens)
            if taken.tokens > tokens:
                self._kept[owner] = Stretch(taken.start + tokens, taken.tokens - tokens)
                taken = Stretch(taken.start, tokens)
            found.append(taken)
            tokens -= taken.tokens
        return found

    def give(self, stretches: Iterable[Stretch]) -> None:
        """They are free again."""
        for each in stretches:
            self._give(each)

    def forget(self, owner: int) -> None:
        """Nothing is kept for it any more."""
        kept = self._kept.pop(owner, None)
        if kept is not None:
            self.free -= kept.tokens
            self._give(kept)

    def _cut(self, tokens: int, expected: int) -> Stretch:
        """Out of the shortest stretch that has all, else out of the longest: never more than is
        wanted, and at least one slot."""
        if not self._starts:
            self.forget(next(iter(self._kept)))
        wanted = tokens + expected
        enough = [(count, at) for at, count in enumerate(self._counts) if count >= wanted]
        at = min(enough)[1] if enough else self._counts.index(max(self._counts))
        start, count = self._starts[at], self._counts[at]
        part = min(count, wanted)
        if part == count:
            del self._starts[at], self._counts[at]
        else:
            self._starts[at], self._counts[at] = start + part, count - part
        return Stretch(start, part)

    def _give(self, stretch: Stretch) -> None:
        """Joined with its neighbours."""
        if not stretch.tokens:
            return
        self.free += stretch.tokens
        start, stop = stretch.start, stretch.stop
        at = bisect_left(self._starts, start)
        if at < len(self._starts) and self._starts[at] == stop:
            stop += self._counts[at]
            del self._starts[at], self._counts[at]
        if at and self._starts[at - 1] + self._counts[at - 1] == start:
            at -= 1
            start = self._starts[at]
            del self._starts[at], self._counts[at]
        assert at == 0 or self._starts[at - 1] + self._counts[at - 1] < start, "given once"
        self._starts.insert(at, start)
        self._counts.insert(at, stop - start)
