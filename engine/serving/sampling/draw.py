"""The random number that decides a token."""

from __future__ import annotations

import hashlib

_BITS = 53  # of a double's fraction
_UNIT = 2.0**-53


def draw(seed: int, place: int) -> float:
    """A uniform number in [0, 1), the same for the same seed and place in the output, however often
    the sequence was preempted and whoever else is in the batch.

    Args:
        seed: any integer of 64 bits, signed or not.
    """
    content = (seed % 2**64).to_bytes(8, "little") + place.to_bytes(8, "little")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> (64 - _BITS)) * _UNIT
