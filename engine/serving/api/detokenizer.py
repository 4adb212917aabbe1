"""From tokens to text, a token at a time.

Byte-level BPE splits characters: a token may end in the middle of one. Bytes are therefore decoded
by an incremental UTF-8 decoder; the pieces always add up to the decoding of all tokens at once.
"""

from __future__ import annotations

import codecs
import json
from typing import TYPE_CHECKING

from collectors.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer


class Vocabulary:
    """The bytes that each token stands for; special tokens stand for none.

    Raises:
        DataError: the tokenizer is not a byte-level one.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        description = json.loads(tokenizer.to_str())
        if not _is_byte_level(description.get("decoder")):
            raise DataError(
                "the model's tokenizer is not byte-level, which is the one kind supported",
                where="tokenizer.json",
                remedy="serve a model with a byte-level BPE tokenizer",
            )
        added = description.get("added_tokens") or []
        literal = {token["content"]: token["special"] for token in added}
        self._bytes: dict[int, bytes] = {}
        for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
            if token not in literal:
                self._bytes[token_id] = _to_bytes(token)
            elif not literal[token]:
                self._bytes[token_id] = token.encode()

    def text_of(self, tokens: Sequence[int]) -> str:
        """All tokens at once; bytes that are not UTF-8 become U+FFFD."""
        return b"".join(self.bytes_of(token) for token in tokens).decode(errors="replace")

    def bytes_of(self, token: int) -> bytes:
        """A token's bytes; none for special tokens and for ids without a token."""
        return self._bytes.get(token, b"")


class Detokenizer:
    """The text of one growing sequence of tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this token completes."""
        return self._decoder.decode(self._vocabulary.bytes_of(token))

    def finish(self) -> str:
        """What is left: U+FFFD for a character that was never completed."""
        return self._decoder.decode(b"", final=True)


def _is_byte_level(decoder: object) -> bool:
    if not isinstance(decoder, dict):
        return False
    if decoder.get("type") == "Sequence":
        return any(_is_byte_level(inner) for inner in decoder.get("decoders", []))
    return decoder.get("type") == "ByteLevel"


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }


_BYTE_OF = _byte_alphabet()


def _to_bytes(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()
