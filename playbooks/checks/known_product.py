"""Two matrices of small integers whose product is known beforehand, bit by bit.

All entries are whole numbers from -8 to 7, which bfloat16, float16, TF32 and float32 hold exactly,
and all partial sums stay below 2**24, which float32 holds exactly: whatever the order of the
additions, a sound unit gives exactly this product. Its digest was computed once, elsewhere, by
integer arithmetic, so a machine is not compared with what it computed itself.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 512
"""Rows and columns; larger products are made of tiles (:func:`tiles`)."""
DIGEST = "b019665808a8ee1294d55bfbd8246bb6dc008ff8812e9b389bd670fe89719c4a"
"""SHA-256 of the product as little-endian int32, row by row."""
LARGEST = 2611
"""The largest magnitude in the product."""


class WrongProductError(Exception):
    """This machine does not compute the known product even once."""


def factors() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The two matrices."""
    return _matrix(1), _matrix(2)


def known_product() -> NDArray[np.int32]:
    """Their product.

    Raises:
        WrongProductError: this machine's float64 units computed another one.
    """
    a, b = factors()
    product = (a.astype(np.float64) @ b.astype(np.float64)).astype("<i4")
    if hashlib.sha256(product.tobytes()).hexdigest() != DIGEST:
        raise WrongProductError("the float64 product is not the known one")
    return product


def tiles(size: int) -> int:
    """How many tiles make ``size``. A matrix of k x k equal tiles times another one is k times the
    tiles' product in every tile, so larger products are known as well."""
    count, rest = divmod(size, SIZE)
    assert count >= 1
    assert not rest
    assert count * LARGEST < 1 << 24
    return count


def _matrix(seed: int) -> NDArray[np.float32]:
    """SplitMix64 (Steele et al., 2014) over the positions: the same for every version of NumPy."""
    x = np.arange(SIZE * SIZE, dtype=np.uint64) + np.uint64(seed * SIZE * SIZE)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return ((x >> np.uint64(60)).astype(np.float32) - 8).reshape(SIZE, SIZE)
