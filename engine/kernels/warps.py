"""How many warps share a block, so that its values stay in registers."""

from __future__ import annotations

_VALUES_OF_WARP = 256  # 8 of each thread
_FEWEST, _MOST = 4, 16


def warps_for(block: int) -> int:
    """For a block of so many values, a power of two."""
    return min(_MOST, max(_FEWEST, block // _VALUES_OF_WARP))
