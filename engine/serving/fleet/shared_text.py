"""Beginnings of texts whose keys and values several requests read."""

from __future__ import annotations

import hashlib
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from engine.serving.instances.step import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

BLOCK_TOKENS = 16  # by which beginnings are found


class SharedText:
    """Attributes:
    tokens, salt: compared on every hit: a hash alone proves nothing.
    runs: where they lie, in the order of the text.
    keys: of its blocks, by which it is found.
    """

    __slots__ = ("_readers", "keys", "runs", "salt", "tokens")

    def __init__(
        self, tokens: Sequence[int], salt: bytes, runs: Sequence[Run], keys: list[bytes]
    ) -> None:
        self.tokens = array("q", tokens)
        self.salt = salt
        self.runs = list(runs)
        self.keys = keys
        self._readers = np.zeros(len(tokens), dtype=np.int32)  # of each token

    def first_runs(self, length: int) -> list[Run]:
        """Those of the first tokens."""
        return [cut(run, length - run.first)[0] for run in self.runs if run.first < length]

    def hold(self, runs: Iterable[Run], more: int) -> None:
        """So many more read these."""
        for run in runs:
            self._readers[run.first : run.end] += more

    def shorten(self) -> list[Run]:
        """To what is read: the other slots are free."""
        kept: list[Run] = []
        freed: list[Run] = []
        for run in self.runs:
            read = self._readers[run.first : run.end] > 0
            edges = [0, *(np.flatnonzero(read[1:] != read[:-1]) + 1).tolist(), run.tokens]
            for start, stop in pairwise(edges):
                part = Run(run.instance, run.slot + start, run.first + start, stop - start)
                (kept if read[start] else freed).append(part)
        self.runs = kept
        return freed

    @property
    def length(self) -> int:
        """Tokens that are there from the first on, without a gap."""
        place = 0
        for run in self.runs:
            if run.first != place:
                break
            place = run.end
        return place


class SharedTexts:
    """Found by a chain of salted hashes over blocks of tokens; what nobody reads is kept until its
    room is needed, and given up in the order of its last use.

    Args:
        salt: secret, so that no client can make two texts that look alike.
    """

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._by_key: dict[bytes, SharedText] = {}
        self._texts: dict[SharedText, None] = {}  # in the order of the last use

    def whole(self, tokens: int) -> int:
        """As many of these as fill whole blocks."""
        return tokens // BLOCK_TOKENS * BLOCK_TOKENS

    def find(
        self, tokens: Sequence[int], salt: bytes, keys: Sequence[bytes]
    ) -> tuple[SharedText, int] | None:
        """The text that has the longest beginning of these tokens, and how long that is: never all
        of them.

        Args:
            keys: of these tokens.
        """
        found = None
        for place, key in enumerate(keys[: (len(tokens) - 1) // BLOCK_TOKENS]):
            text = self._by_key.get(key)
            if text is None:
                break
            found = text, (place + 1) * BLOCK_TOKENS
        if found is None:
            return None
        text, length = found
        same = text.salt == salt and text.tokens[:length] == array("q", tokens[:length])
        return found if same else None

    def hold(self, text: SharedText, runs: Iterable[Run]) -> None:
        """Somebody reads so much of it."""
        text.hold(runs, 1)
        if text in self._texts:
            self._texts[text] = self._texts.pop(text)

    def release(self, text: SharedText, runs: Iterable[Run]) -> list[Run]:
        """And does not any more: slots that are free now, where it is of no further use."""
        text.hold(runs, -1)
        return [] if text in self._texts else text.shorten()

    def add(self, tokens: Sequence[int], salt: bytes, runs: Sequence[Run]) -> SharedText | None:
        """A text of whole blocks; None: another has its beginning already."""
        keys = self.keys(tokens, salt)
        if keys[0] in self._by_key and keys[-1] in self._by_key:
            return None
        text = SharedText(tokens, salt, runs, keys)
        for key in keys:
            self._by_key.setdefault(key, text)
        self._texts[text] = None
        return text

    def give_up(self, instance: int, tokens: int | None) -> list[Run]:
        """What nobody reads, until so many slots of an instance are free; None: all of it.

        Returns:
            Slots that are free now, of any instance.
        """
        freed: list[Run] = []
        for text in list(self._texts):
            if tokens is not None and tokens <= 0:
                break
            if not any(run.instance == instance for run in text.runs):
                continue
            cut_off = self._shorten(text)
            freed += cut_off
            if tokens is not None:
                tokens -= sum(run.tokens for run in cut_off if run.instance == instance)
        return freed

    def lose(self, instance: int) -> list[Run]:
        """What lies there is no more: who reads it is told by others, and releases it.

        Returns:
            Slots of other instances that are free now.
        """
        freed: list[Run] = []
        for text in list(self._texts):
            if any(run.instance == instance for run in text.runs):
                text.runs = [run for run in text.runs if run.instance != instance]
                freed += self._shorten(text)
        return freed

    def _shorten(self, text: SharedText) -> list[Run]:
        """To what is still read; it is found by what is left of its beginning."""
        freed = text.shorten()
        blocks = text.length // BLOCK_TOKENS
        for key in text.keys[blocks:]:
            if self._by_key.get(key) is text:
                del self._by_key[key]
        del text.keys[blocks:]
        if not text.keys:
            del self._texts[text]
        return freed

    def keys(self, tokens: Sequence[int], salt: bytes) -> list[bytes]:
        """Of each whole block, with all before it."""
        found = []
        key = hashlib.blake2b(salt, key=self._salt, digest_size=16).digest()
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = array("q", tokens[start : start + BLOCK_TOKENS]).tobytes()
            key = hashlib.blake2b(key + block, digest_size=16).digest()
            found.append(key)
        return found


def cut(run: Run, tokens: int) -> tuple[Run, Run]:
    """Its first so many tokens, and the others; all of them, where it has fewer."""
    tokens = min(tokens, run.tokens)
    first = Run(run.instance, run.slot, run.first, tokens)
    return first, Run(run.instance, run.slot + tokens, run.first + tokens, run.tokens - tokens)
