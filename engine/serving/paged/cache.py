"""Whose keys and values lie where: block tables of sequences, on the device and on the host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.serving.paged.block_pool import BlockPool
from engine.serving.paged.free_blocks import FreeBlocks
from engine.serving.paged.moves import mover_of
from engine.serving.paged.prefixes import PrefixIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from engine.scheduling.iteration import Iteration
    from engine.scheduling.limits import Limits
    from engine.serving.paged.moves import Move, Mover
    from engine.serving.paged.prefixes import Prefix
    from engine.serving.paged.storage import Storage


@dataclass(slots=True, eq=False, kw_only=True)
class Table:
    """The blocks of one sequence.

    Attributes:
        blocks: of the device, in the order of tokens.
        together: whether they lie side by side: then they are one view of the storage.
        host: of the host.
        expected: blocks that it will have at most, as far as is known.
        prefix: the text of its blocks that others may share; None: no further ones.
        known: how many those are.
    """

    prefix: Prefix | None
    expected: int = 0
    known: int = 0
    together: bool = True
    blocks: list[int] = field(default_factory=list)
    host: list[int] = field(default_factory=list)

    def append(self, block: int) -> None:
        """One more block of the device."""
        self.together = self.together and (not self.blocks or block == self.blocks[-1] + 1)
        self.blocks.append(block)


class PagedCache:
    """Blocks for sequences, which are called by their numbers.

    Args:
        salt: of this server's prefixes: secret, and another at every start.
        mover: None: the one for where the storage lies.
    """

    def __init__(
        self, storage: Storage, limits: Limits, *, salt: bytes, mover: Mover | None = None
    ) -> None:
        self.storage = storage
        self.block_tokens = limits.block_tokens
        self._limits = limits
        self._prefixes = PrefixIndex(limits.block_tokens, salt)
        self._pool = BlockPool(limits.blocks, self._prefixes)
        self._host = FreeBlocks(limits.host_blocks)
        self._mover = mover or mover_of(storage)
        self._tables: dict[int, Table] = {}
        self._offloading: dict[int, Move] = {}
        self._uploading: dict[int, Move] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._tables

    @property
    def used(self) -> int:
        """Blocks of the device that sequences hold."""
        return self._pool.held

    @property
    def idle(self) -> int:
        """Blocks of the device that only keep a prefix; they are given up when room is needed."""
        return self._pool.idle

    @property
    def available(self) -> int:
        """Blocks of the device that can be taken."""
        return self._pool.available

    @property
    def host_used(self) -> int:
        """Blocks of the host that sequences hold."""
        return self._limits.host_blocks - self._host.count

    def table(self, number: int) -> Table:
        """The blocks of a sequence."""
        return self._tables[number]

    def known(self, tokens: Sequence[int], *, salt: bytes = b"") -> int:
        """How many tokens at the front of a text need not be computed."""
        found = sum(1 for _ in self._prefixes.match(tokens[:-1], salt))
        return found * self.block_tokens

    def begin(
        self, number: int, tokens: Sequence[int] = (), *, expected: int = 0, salt: bytes = b""
    ) -> int:
        """A sequence enters, and shares what is known of its beginning.

        Args:
            tokens: what it begins with; empty: it shares nothing. Its last token is never shared:
                computing it gives the next.
            expected: tokens that it has at most in the end; its blocks then lie together.
            salt: only those with the same salt share.

        Returns:
            Tokens at its front that need not be computed.
        """
        assert number not in self._tables, "a sequence begins once"
        table = Table(
            prefix=self._prefixes.empty(salt),
            expected=self._limits.blocks_of(max(expected, len(tokens))),
        )
        self._tables[number] = table
        for block, prefix in self._prefixes.match(tokens[:-1], salt):
            self._pool.hold(block)
            table.append(block)
            table.prefix = prefix
        table.known = len(table.blocks)
        return table.known * self.block_tokens

    def extend(self, number: int, tokens: int) -> Table:
        """See that a sequence has blocks for so many tokens in all."""
        table = self._tables[number]
        for have in range(len(table.blocks), self._limits.blocks_of(tokens)):
            after = table.blocks[-1] if table.blocks else None
            table.append(self._pool.take(after, max(1, table.expected - have)))
        return table

    def publish(self, number: int, tokens: Sequence[int], computed: int) -> None:
        """Let others share a sequence's full blocks.

        Args:
            tokens: its text.
            computed: as far as keys and values are computed. Call it when they are sound: when the
                scores that came of them are finite.
        """
        table, size = self._tables[number], self.block_tokens
        while table.prefix and (table.known + 1) * size <= computed:
            own = tokens[table.known * size : (table.known + 1) * size]
            table.prefix = self._prefixes.add(table.blocks[table.known], table.prefix, own)
            table.known += 1

    def free(self, number: int) -> None:
        """A sequence leaves, wherever its blocks are; unknown ones are passed over."""
        for moves in (self._offloading, self._uploading):
            if move := moves.pop(number, None):
                move.wait()
        if table := self._tables.pop(number, None):
            self._release_device(table)
            self._release_host(table)

    def offload(self, number: int) -> None:
        """Begin to move a sequence to the host; :meth:`arrived` says when it is there."""
        table = self._tables[number]
        assert len(table.blocks) <= self._host.count, "the scheduler keeps to the host's blocks"
        for at in range(len(table.blocks)):
            after = table.host[-1] if table.host else None
            if after is None or not self._host.take_at(after + 1):
                table.host.append(self._host.take(len(table.blocks) - at))
            else:
                table.host.append(after + 1)
        self._offloading[number] = self._mover.offload(table.blocks, table.host)

    def upload(self, number: int) -> None:
        """Begin to move a sequence back; its blocks of the device are its own."""
        table = self._tables[number]
        assert not table.blocks, "it is on the host"
        self.extend(number, len(table.host) * self.block_tokens)
        self._uploading[number] = self._mover.upload(table.host, table.blocks)

    def move(self, iteration: Iteration) -> None:
        """Begin to move, as an iteration says; where it waits, until all have arrived.

        Those that leave the device go first: then those that come may have their blocks.
        """
        for jobs, begin in ((iteration.offload, self.offload), (iteration.upload, self.upload)):
            for job in jobs:
                begin(job.number)
            if iteration.waits:
                self.collect([job.number for job in jobs])

    def arrived(self) -> list[int]:
        """Sequences whose move is over; :meth:`collect` makes it count."""
        moves = (*self._offloading.items(), *self._uploading.items())
        return [number for number, move in moves if move.done()]

    def collect(self, numbers: Iterable[int]) -> None:
        """Free what these have left behind, on either side, once they have arrived."""
        for number in numbers:
            if move := self._offloading.pop(number, None):
                move.wait()
                self._release_device(self._tables[number])
            else:
                self._uploading.pop(number).wait()
                self._release_host(self._tables[number])

    def forget_prefixes(self) -> None:
        """Give up all blocks that only keep a prefix."""
        self._pool.forget_idle()

    def _release_device(self, table: Table) -> None:
        while table.blocks:
            self._pool.release(table.blocks.pop())
        table.together = True

    def _release_host(self, table: Table) -> None:
        while table.host:
            self._host.give(table.host.pop())
