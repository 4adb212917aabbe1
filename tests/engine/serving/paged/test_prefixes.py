"""A prefix is found by those who may share it, if it is truly the same."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the engine extra")

from engine.serving.paged.prefixes import Prefix, PrefixIndex

TEXT = list(range(12))


def blocks(index: PrefixIndex, text: list[int], salt: bytes = b"") -> list[int]:
    return [block for block, _ in index.match(text, salt)]


def filled(index: PrefixIndex, text: list[int], salt: bytes = b"", first: int = 0) -> None:
    prefix: Prefix | None = index.empty(salt)
    for at in range(0, len(text) // 4):
        assert prefix
        prefix = index.add(first + at, prefix, text[4 * at : 4 * at + 4])


def test_whole_blocks_from_the_beginning_are_found() -> None:
    index = PrefixIndex(4, b"server")
    filled(index, TEXT)
    assert blocks(index, TEXT) == [0, 1, 2]
    assert blocks(index, [*TEXT[:8], 99, 99, 99, 99]) == [0, 1]
    assert blocks(index, TEXT[:11]) == [0, 1]
    assert blocks(index, TEXT[4:]) == []
    index.forget(1)
    assert blocks(index, TEXT) == [0]


def test_no_salt_shares_with_another() -> None:
    index = PrefixIndex(4, b"server")
    filled(index, TEXT, b"one")
    assert blocks(index, TEXT, b"other") == blocks(index, TEXT) == []
    filled(index, TEXT, b"other", first=7)
    assert blocks(index, TEXT, b"other") == [7, 8, 9]
    assert PrefixIndex(4, b"another").empty(b"").digest != index.empty(b"").digest


def test_a_hash_alone_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hash that is the same for all, only the same text is found."""
    monkeypatch.setattr(PrefixIndex, "_hash", lambda self, content: b"the same")
    index = PrefixIndex(4, b"server")
    assert index.add(0, index.empty(b"a"), TEXT[:4])
    assert index.add(1, index.empty(b"a"), TEXT[4:8]) is None
    assert blocks(index, TEXT, b"a") == [0]
    assert blocks(index, TEXT, b"b") == blocks(index, TEXT[4:], b"a") == []
