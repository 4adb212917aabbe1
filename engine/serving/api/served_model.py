"""What the API knows of the model: its text side, without weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from collectors.errors import DataError
from engine.models.huggingface import load_config
from engine.models.tokenizer import load_tokenizer
from engine.serving.api.chat_template import ChatTemplate, load_chat_template
from engine.serving.api.detokenizer import Vocabulary
from engine.serving.config import require_in_context

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer


_SHRINKAGE = 4  # what a normalizer may make of a text at most: more is absurd


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """One model, as clients see it.

    Attributes:
        name: what they call it.
        max_len: most tokens of prompt and completion together.
        end_tokens: ids that end a sequence.
        chat_template: None: it has none.
        priorities: whether it counts what priority a client asks for.
    """

    name: str
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    vocab_size: int
    max_len: int
    end_tokens: frozenset[int]
    chat_template: ChatTemplate | None = None
    priorities: bool = False

    def may_fit(self, text: str) -> bool:
        """Whether it is worth to be tokenized: not if it were too long of the longest tokens."""
        return len(text) <= self.max_len * self._longest_token * _SHRINKAGE

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Its tokens; with those that the tokenizer itself puts around a text, if ``special``."""
        return self.tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids

    @cached_property
    def _longest_token(self) -> int:
        return max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)), default=1)


def load_served_model(
    directory: Path, *, name: str | None, max_len: int | None, priorities: bool = False
) -> ServedModel:
    """Read tokenizer, chat template and shape from a model directory.

    Args:
        name: None: the directory's.
        max_len: None: the model's context.

    Raises:
        UsageError: the directory is no model directory, or its context is shorter.
        DataError: a file in it is missing, corrupt or of a kind that opsuite cannot use.
    """
    config = load_config(directory)
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= config.vocab_size:
        raise DataError(
            f"the tokenizer has token ids up to {largest}, the model knows {config.vocab_size}",
            where=str(directory),
            remedy="put the model's own tokenizer.json beside its weights",
        )
    context = config.max_seq_len
    require_in_context(max_len, context)
    return ServedModel(
        name=name or directory.resolve().name,
        tokenizer=tokenizer,
        vocabulary=Vocabulary(tokenizer),
        vocab_size=config.vocab_size,
        max_len=max_len or context,
        end_tokens=_end_tokens(directory),
        chat_template=load_chat_template(directory),
        priorities=priorities,
    )


def _end_tokens(directory: Path) -> frozenset[int]:
    """``eos_token_id`` of generation_config.json, or else of config.json: a number or several."""
    path = directory / "generation_config.json"
    if not path.is_file():
        path = directory / "config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"not usable: {error}", where=str(path)) from None
    several = [] if given is None else given if isinstance(given, list) else [given]
    if not all(isinstance(token, int) for token in several):
        raise DataError(f"eos_token_id {given!r} is no token id", where=str(path))
    return frozenset(several)
