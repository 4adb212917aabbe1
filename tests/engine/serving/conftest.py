"""Tiny random models for all tests of serving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from engine.models.config import ModelConfig
    from engine.models.transformer import Transformer

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


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"window": 9},
    "qwen2": {"qkv_bias": True, "tie_embeddings": True},
    "qwen3": {"qk_norm": True, "head_size": 16, "n_kv_heads": 1},
}
OUTPUT = 20  # tokens that are generated of each prompt


@dataclass(frozen=True)
class Oracle:
    """A model, and greedy outputs by transformers.

    Attributes:
        directory: where it is saved, without a tokenizer.
        exact: transformers' model in float64.
    """

    directory: Path
    config: ModelConfig
    model: Transformer
    exact: Any
    prompts: list[list[int]]
    outputs: list[list[int]]

    def gap(self, number: int, place: int) -> float:
        """Between the two best scores in float64, of the output's token at ``place``."""
        import torch

        text = self.prompts[number] + self.outputs[number][:place]
        with torch.inference_mode():
            best = self.exact(torch.tensor([text])).logits[0, -1].topk(2).values
        return float(best[0] - best[1])


def make(directory: Path, family: str) -> Oracle:
    """Six prompts, of which some begin alike."""
    import torch
    from transformers import AutoModelForCausalLM

    from engine.models.config import ModelConfig
    from engine.models.huggingface import save_pretrained
    from engine.models.transformer import Transformer

    shape: dict[str, Any] = {
        "vocab_size": 260, "hidden_size": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "intermediate_size": 48, "max_seq_len": 128,
    }  # fmt: skip
    config = ModelConfig(**(shape | FAMILIES[family]))
    model = Transformer(config).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        scale = 0.3 if parameter.dim() > 1 else 1.0
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    save_pretrained(directory, config, dict(model.named_parameters()), None)
    texts = torch.randint(1, 260, (6, 40), generator=generator).tolist()
    texts[1][:18] = texts[2][:18] = texts[0][:18]
    prompts = [text[:length] for text, length in zip(texts, (40, 31, 18, 7, 1, 25), strict=True)]
    loading: Any = AutoModelForCausalLM.from_pretrained
    oracle = loading(directory, dtype=torch.float32).eval()
    outputs = [_generated(oracle, prompt) for prompt in prompts]
    return Oracle(directory, config, model, oracle.double(), prompts, outputs)


def _generated(oracle: Any, prompt: list[int]) -> list[int]:
    import torch

    output = oracle.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=OUTPUT,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(output[0, len(prompt) :].tolist())


@pytest.fixture(scope="session")
def make_oracle() -> Any:
    """To be called with a directory and a family."""
    pytest.importorskip("torch", reason="needs the engine extra")
    pytest.importorskip("transformers", reason="the oracle is not installed")
    return make


@pytest.fixture(scope="session", params=list(FAMILIES))
def oracle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """Of each family in turn."""
    torch = pytest.importorskip("torch", reason="needs the engine extra")
    pytest.importorskip("transformers", reason="the oracle is not installed")
    torch.set_num_threads(1)
    return make(tmp_path_factory.mktemp(request.param), request.param)
