"""How a product is cut into tiles, and its communication too: what the tuner chooses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_SPLITS = 16
SHARED_LIMITS = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
"""Shared memory that a program may have, by architecture (CUDA C++ Programming Guide, 17.1)."""
LEAST_SHARED = 99 << 10
"""Of architectures that are not among them."""
Direction = Literal["push", "pull"]
DIRECTIONS: tuple[Direction, ...] = ("push", "pull")


@dataclass(frozen=True, slots=True, kw_only=True)
class TileShape:
    """Of a product on the tensor cores.

    Attributes:
        block_m, block_n, block_k: rows, columns and depth of a tile.
        group_m: tiles of a column that neighbouring programs take, so that they share weights.
        stages: of the pipeline that loads tiles ahead.
        warps: of a program.
    """

    block_m: int = 128
    block_n: int = 128
    block_k: int = 64
    group_m: int = 8
    stages: int = 3
    warps: int = 8

    def shared_bytes(self, itemsize: int) -> int:
        """Shared memory of the pipeline, at least."""
        return self.stages * (self.block_m + self.block_n) * self.block_k * itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class CommunicationShape:
    """Of the communication inside of a product, apart from its tiles (Flux, section 4.3).

    Attributes:
        splits: copies that a shard is cut into, each with its signal.
        direction: whether shards are written by who has them, or read by who wants them.
    """

    splits: int = 4
    direction: Direction = "push"


def candidates(itemsize: int, shared_limit: int) -> Iterator[TileShape]:
    """Shapes worth trying for operands of ``itemsize`` bytes, the likely best first.

    Args:
        shared_limit: bytes of shared memory that a program may have.
    """
    depth = 128 // itemsize  # a row of a tile is a line of 128 bytes
    for block_m, block_n, warps in (
        (128, 256, 8),
        (128, 128, 8),
        (128, 128, 4),
        (64, 256, 8),
        (256, 128, 8),
        (64, 128, 4),
        (64, 64, 4),
        (32, 128, 4),
        (16, 128, 4),
        (16, 64, 4),
    ):
        for stages in (4, 3, 5, 2):
            shape = TileShape(
                block_m=block_m, block_n=block_n, block_k=depth, stages=stages, warps=warps
            )
            if shape.shared_bytes(itemsize) <= shared_limit:
                yield shape


def default_shape(m: int, itemsize: int) -> TileShape:
    """One that is never bad: for ``m`` rows, operands of ``itemsize`` bytes."""
    if itemsize == 4:
        return TileShape(block_m=64, block_n=64, block_k=32, stages=3, warps=4)
    if m <= 16:
        return TileShape(block_m=16, block_n=64, block_k=128 // itemsize, stages=4, warps=4)
    if m <= 64:
        return TileShape(block_m=64, block_n=128, block_k=128 // itemsize, stages=4, warps=4)
    return TileShape(block_m=128, block_n=128, block_k=128 // itemsize, stages=3, warps=8)
