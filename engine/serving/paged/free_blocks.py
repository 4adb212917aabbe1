"""Which blocks of a storage are free, as runs, so that a sequence's blocks lie side by side."""

from __future__ import annotations


class FreeBlocks:
    """Blocks 0 to ``count`` - 1, all free at first.

    Attributes:
        count: how many are free.
    """

    def __init__(self, count: int) -> None:
        self.count = 0
        self._lengths: dict[int, int] = {}  # first block of a run -> its length
        self._starts: dict[int, int] = {}  # first block after a run -> its first
        if count:
            self._put(0, count)

    def take_at(self, block: int) -> bool:
        """Take the first block of a run; False if no run begins there."""
        length = self._lengths.get(block)
        if length is None:
            return False
        self._remove(block, length)
        self._put(block + 1, length - 1)
        return True

    def take(self, expected: int) -> int:
        """Take a block that has room to grow behind it.

        It lies in the longest run, as near to its end as ``expected`` blocks allow: who grows into
        that run from the left is disturbed last.
        """
        start = max(self._lengths, key=self._lengths.__getitem__)
        length = self._lengths[start]
        before = length - expected if length >= expected else length // 2
        self._remove(start, length)
        self._put(start, before)
        self._put(start + before + 1, length - before - 1)
        return start + before

    def give(self, block: int) -> None:
        """Take a block back; it joins the runs beside it."""
        start, length = block, 1
        if (left := self._starts.get(block)) is not None:
            length += self._lengths[left]
            self._remove(left, self._lengths[left])
            start = left
        if (right := self._lengths.get(block + 1)) is not None:
            self._remove(block + 1, right)
            length += right
        self._put(start, length)

    @property
    def longest(self) -> int:
        """Length of the longest run."""
        return max(self._lengths.values(), default=0)

    def _put(self, start: int, length: int) -> None:
        if length:
            self._lengths[start] = length
            self._starts[start + length] = start
            self.count += length

    def _remove(self, start: int, length: int) -> None:
        del self._lengths[start]
        del self._starts[start + length]
        self.count -= length
