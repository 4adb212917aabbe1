"""Beginnings of texts whose keys and values several requests read."""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING

from engine.serving.instances.step import Run

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCK_TOKENS = 16  # by which beginnings are found


class SharedText:
    """Attributes:
    tokens, salt: compared on every hit: a hash alone proves nothing.
    runs: where they lie, in the order of the text.
    holders: lengths that requests read, each as often as they do.
    keys: of its blocks, by which it is found.
    """

    __slots__ = ("holders", "keys", "runs", "salt", "tokens")

    def __init__(
        self, tokens: Sequence[int], salt: bytes, runs: Sequence[Run], keys: list[bytes]
    ) -> None:
        self.tokens = array("q", tokens)
        self.salt = salt
        self.runs = list(runs)
        self.holders: list[int] = []
        self.keys = keys

    def first_runs(self, length: int) -> list[Run]:
        """Those of the first tokens."""
        found = []
        for run in self.runs:
            if run.first >= length:
                break
            count = min(run.tokens, length - run.first)
            found.append(Run(run.instance, run.slot, run.first, count))
        return found


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

    @property
    def idle_tokens(self) -> int:
        """Of texts that nobody reads."""
        return sum(run.tokens for text in self._texts if not text.holders for run in text.runs)

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

    def hold(self, text: SharedText, length: int) -> None:
        """Somebody reads so much of it."""
        text.holders.append(length)
        self._texts[text] = self._texts.pop(text)

    def release(self, text: SharedText, length: int) -> list[Run]:
        """And does not any more: slots that are free now, where it was of no further use."""
        text.holders.remove(length)
        return [] if text.holders or text in self._texts else text.runs

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
            cut = self._shorten(text, max(text.holders, default=0))
            freed += cut
            if tokens is not None:
                tokens -= sum(run.tokens for run in cut if run.instance == instance)
        return freed

    def lose(self, instance: int) -> list[Run]:
        """What lies there is no more: who reads it is told by others, and releases it.

        Returns:
            Slots of other instances that are free now.
        """
        freed: list[Run] = []
        for text in list(self._texts):
            if any(run.instance == instance for run in text.runs):
                self._forget(text, 0)
                if text.holders:
                    del self._texts[text]
                else:
                    freed += self._shorten(text, 0)
        return freed

    def _shorten(self, text: SharedText, length: int) -> list[Run]:
        """To what is still read."""
        self._forget(text, length)
        kept = text.first_runs(length)
        freed = []
        for run in text.runs:
            part = min(run.tokens, max(0, length - run.first))
            if part < run.tokens:
                freed.append(
                    Run(run.instance, run.slot + part, run.first + part, run.tokens - part)
                )
        text.runs = kept
        text.tokens = text.tokens[:length]
        if not length:
            del self._texts[text]
        return freed

    def _forget(self, text: SharedText, length: int) -> None:
        """It is found by its first tokens only."""
        for key in text.keys[length // BLOCK_TOKENS :]:
            if self._by_key.get(key) is text:
                del self._by_key[key]
        del text.keys[length // BLOCK_TOKENS :]

    def keys(self, tokens: Sequence[int], salt: bytes) -> list[bytes]:
        """Of each whole block, with all before it."""
        found = []
        key = hashlib.blake2b(salt, key=self._salt, digest_size=16).digest()
        for start in range(0, len(tokens) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            block = array("q", tokens[start : start + BLOCK_TOKENS]).tobytes()
            key = hashlib.blake2b(key + block, digest_size=16).digest()
            found.append(key)
        return found
