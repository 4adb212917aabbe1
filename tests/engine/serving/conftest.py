"""A tiny random model of the Llama family with a byte-level tokenizer, for all tests of serving."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

TEXT = [
    "def attend(query, keys, values): return softmax(query @ keys) @ values",
    "The naïve café serves crêpes, señor: 你好世界, здравствуй мир 🙂🚀",
]


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory named ``tiny``; weights are large enough that top scores are well apart."""
    torch = pytest.importorskip("torch", reason="needs the engine extra")
    from engine.models.config import ModelConfig
    from engine.models.huggingface import save_pretrained
    from engine.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(TEXT, 320)
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        intermediate_size=96,
        max_seq_len=128,
    )
    from engine.models.transformer import Transformer

    network = Transformer(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = 0.2 if parameter.dim() > 1 else 1.0
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    directory: Path = tmp_path_factory.mktemp("models") / "tiny"
    directory.mkdir()
    save_pretrained(directory, config, dict(network.named_parameters()), tokenizer.to_str())
    return directory
