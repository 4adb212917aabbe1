"""Blocks whose content is known by the tokens that led to it, so that a prompt that begins alike
need not be computed again.

A full block is found by a hash over the hash of the block before and its own tokens. Hashes are
salted, and a hit is believed only if the tokens are the same: whoever finds two texts with one hash
gains nothing.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """A text of whole blocks, from the very beginning on.

    Attributes:
        digest: of all of it.
        number: no other text's; 0: the empty one.
        salt: who may share it.
    """

    digest: bytes
    number: int
    salt: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    block: int
    prefix: Prefix
    parent: int
    tokens: tuple[int, ...]


class PrefixIndex:
    """Blocks by their content.

    Args:
        salt: of this server; equal texts have other hashes elsewhere.
    """

    def __init__(self, block_tokens: int, salt: bytes) -> None:
        self._block_tokens = block_tokens
        self._key = hashlib.blake2b(salt, digest_size=32).digest()
        self._by_digest: dict[bytes, _Known] = {}
        self._by_block: dict[int, _Known] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._by_block)

    def __contains__(self, block: int) -> bool:
        return block in self._by_block

    def empty(self, salt: bytes) -> Prefix:
        """The beginning of every text that those with this salt share."""
        return Prefix(digest=self._hash(salt), number=0, salt=salt)

    def match(self, tokens: Sequence[int], salt: bytes) -> Iterator[tuple[int, Prefix]]:
        """Known blocks that ``tokens`` begin with, and the text up to each one's end."""
        prefix = self.empty(salt)
        for start in range(0, len(tokens) - self._block_tokens + 1, self._block_tokens):
            own = tuple(tokens[start : start + self._block_tokens])
            known = self._find(prefix, own)
            if known is None:
                return
            prefix = known.prefix
            yield known.block, prefix

    def add(self, block: int, before: Prefix, tokens: Sequence[int]) -> Prefix | None:
        """A block now holds these tokens, after those of ``before``.

        Returns:
            The text up to its end; None where its hash is another text's, which stays.
        """
        assert block not in self._by_block, "a block has one content"
        own = tuple(tokens)
        digest = self._digest(before, own)
        if digest in self._by_digest:
            known = self._find(before, own)
            return known.prefix if known else None
        self._numbers += 1
        prefix = Prefix(digest=digest, number=self._numbers, salt=before.salt)
        known = _Known(block=block, prefix=prefix, parent=before.number, tokens=own)
        self._by_digest[digest] = self._by_block[block] = known
        return prefix

    def forget(self, block: int) -> None:
        """A block's content is gone."""
        known = self._by_block.pop(block)
        del self._by_digest[known.prefix.digest]

    def _find(self, before: Prefix, tokens: tuple[int, ...]) -> _Known | None:
        """What the hash finds, if it is true."""
        known = self._by_digest.get(self._digest(before, tokens))
        if known is None or known.tokens != tokens:
            return None
        same = known.parent == before.number and known.prefix.salt == before.salt
        return known if same else None

    def _digest(self, before: Prefix, tokens: tuple[int, ...]) -> bytes:
        return self._hash(before.digest + array("q", tokens).tobytes())

    def _hash(self, content: bytes) -> bytes:
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES, key=self._key).digest()
