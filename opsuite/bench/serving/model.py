"""A small model with random weights, whose every token is a text of its own."""

from __future__ import annotations

from string import ascii_lowercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

CONTEXT = 1024
_VOCABULARY = 512


def make_model(directory: Path, *, context: int = CONTEXT) -> None:
    """As a Hugging Face directory: 256 wide, 4 layers.

    A server sends no text for half a character. Here every token is one or two letters, so every
    token is an event, and its time is seen.
    """
    from engine.models.config import ModelConfig
    from engine.models.huggingface import save_pretrained
    from engine.models.initialization import initialize
    from engine.models.transformer import Transformer

    config = ModelConfig(
        vocab_size=_VOCABULARY,
        hidden_size=256,
        n_layers=4,
        n_heads=8,
        n_kv_heads=4,
        intermediate_size=688,
        max_seq_len=context,
    )
    network = Transformer(config)
    initialize(network, seed=0)
    directory.mkdir(parents=True)
    weights = dict(network.named_parameters())
    save_pretrained(directory, config, weights, _tokenizer().to_str())


def _tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    pairs = [(first, second) for first in ascii_lowercase for second in ascii_lowercase]
    del pairs[_VOCABULARY - len(ascii_lowercase) :]
    pieces = [*ascii_lowercase, *(first + second for first, second in pairs)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
