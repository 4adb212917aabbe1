"""How many blocks of the device and of the host each job holds."""

from __future__ import annotations


class Pages:
    """Counts only: which blocks they are, whoever holds the memory knows.

    While a move goes on, both sides are taken: the device's blocks are free when an offload has
    completed, the host's when an upload has. Tokens that several jobs share count for each of
    them, so that never more is taken in truth than here.

    Attributes:
        device, host: blocks by the job's number.
        free, host_free: that nobody holds.
        coming: of the device, held by jobs whose offload goes on.
    """

    def __init__(self, blocks: int, host_blocks: int) -> None:
        self.device: dict[int, int] = {}
        self.host: dict[int, int] = {}
        self.free = blocks
        self.host_free = host_blocks
        self.coming = 0

    def take(self, number: int, blocks: int) -> None:
        """So many more of the device."""
        assert 0 <= blocks <= self.free, "blocks are free before they are taken"
        self.free -= blocks
        self.device[number] = self.device.get(number, 0) + blocks

    def give_up(self, number: int) -> None:
        """All that it holds of the device."""
        self.free += self.device.pop(number)

    def begin_offload(self, number: int, host_blocks: int, *, hand_over: bool) -> None:
        """``hand_over``: others may have the device's blocks at once, since their work waits until
        the move is over."""
        assert 0 <= host_blocks <= self.host_free, "blocks are free before they are taken"
        self.host_free -= host_blocks
        self.host[number] = host_blocks
        if hand_over:
            self.give_up(number)
        else:
            self.coming += self.device[number]

    def end_offload(self, number: int) -> None:
        """Its keys and values are on the host."""
        blocks = self.device.pop(number, 0)  # none if they were handed over
        self.coming -= blocks
        self.free += blocks

    def begin_upload(self, number: int, blocks: int) -> None:
        """Into so many of the device."""
        assert number in self.host, "only what is on the host is uploaded"
        assert number not in self.device, "what is uploaded is not on the device"
        self.take(number, blocks)

    def end_upload(self, number: int) -> None:
        """Its keys and values are on the device."""
        self.host_free += self.host.pop(number)

    def leave(self, number: int) -> None:
        """It gives up all, and does not move."""
        self.free += self.device.pop(number, 0)
        self.host_free += self.host.pop(number, 0)
