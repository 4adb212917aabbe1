"""Everything that is read from a model directory before it is served."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from collectors.errors import DataError
from engine.models.huggingface import load_pretrained
from engine.models.tokenizer import load_tokenizer
from engine.models.transformer import Transformer
from engine.serving.detokenizer import Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from engine.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model, ready to run.

    Attributes:
        end_tokens: ids that end a sequence.
    """

    config: ModelConfig
    network: Transformer
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    end_tokens: frozenset[int]


def load_model(directory: Path, device: torch.device) -> LoadedModel:
    """Read config, weights and tokenizer; float32 on the CPU, elsewhere as the weights are.

    Raises:
        UsageError: the directory is no model directory.
        DataError: a file in it is missing, corrupt or of a kind that opsuite cannot run.
    """
    config, state = load_pretrained(directory)
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= config.vocab_size:
        raise DataError(
            f"the tokenizer has token ids up to {largest}, the model knows {config.vocab_size}",
            where=str(directory),
            remedy="put the model's own tokenizer.json beside its weights",
        )
    if config.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    network = Transformer(config)
    dtype = torch.float32 if device.type == "cpu" else next(iter(state.values())).dtype
    network.load_state_dict(state)
    return LoadedModel(
        config=config,
        network=network.to(device, dtype).eval(),
        tokenizer=tokenizer,
        vocabulary=Vocabulary(tokenizer),
        end_tokens=_end_tokens(directory),
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
