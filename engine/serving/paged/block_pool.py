"""The device's blocks: free, held by sequences, or idle with a content that may be wanted again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.serving.paged.free_blocks import FreeBlocks

if TYPE_CHECKING:
    from engine.serving.paged.prefixes import PrefixIndex

_PATIENCE = 2  # times as many idle blocks are given up as a new sequence expects to need


class BlockPool:
    """Counts who holds each block; the last to let go of one with a known content leaves it idle.

    Idle blocks count as available. Those idle longest are given up first, and of a text its end
    first, because a sequence lets go of its last block first.
    """

    def __init__(self, blocks: int, prefixes: PrefixIndex) -> None:
        self.blocks = blocks
        self._free = FreeBlocks(blocks)
        self._prefixes = prefixes
        self._holders: dict[int, int] = {}
        self._idle: dict[int, None] = {}  # in the order in which they became idle

    @property
    def held(self) -> int:
        """Blocks that sequences hold, shared ones once."""
        return len(self._holders)

    @property
    def idle(self) -> int:
        """Blocks that nobody holds and whose content is still known."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Blocks that can be taken."""
        return self._free.count + len(self._idle)

    def take(self, after: int | None, expected: int) -> int:
        """Take a block: the one behind ``after`` if it is free, else one with room to grow.

        Args:
            expected: blocks that the sequence still takes, this one included, as far as is known.
        """
        assert self.available, "the scheduler keeps to the number of blocks"
        if after is not None and self._free.take_at(after + 1):
            block = after + 1
        else:
            self._make_room(expected)
            block = self._free.take(expected)
        self._holders[block] = 1
        return block

    def hold(self, block: int) -> None:
        """One more shares a block whose content is known."""
        self._idle.pop(block, None)
        self._holders[block] = self._holders.get(block, 0) + 1

    def release(self, block: int) -> None:
        """One less holds a block."""
        self._holders[block] -= 1
        if self._holders[block]:
            return
        del self._holders[block]
        if block in self._prefixes:
            self._idle[block] = None
        else:
            self._free.give(block)

    def forget_idle(self) -> None:
        """Give up all that is idle."""
        while self._idle:
            self._give_up_oldest()

    def _make_room(self, expected: int) -> None:
        """Give idle blocks up until so many free ones lie together, or enough was tried."""
        for _ in range(_PATIENCE * expected):
            if not self._idle or self._free.longest >= expected:
                return
            self._give_up_oldest()

    def _give_up_oldest(self) -> None:
        block = next(iter(self._idle))
        del self._idle[block]
        self._prefixes.forget(block)
        self._free.give(block)
