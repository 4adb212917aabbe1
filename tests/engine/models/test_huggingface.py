"""Model directories: what transformers loads from ours, what we load from its, and bad ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")
transformers = pytest.importorskip("transformers", reason="the oracle is not installed")

from collectors.errors import OpsuiteError  # noqa: E402
from engine.models.config import ModelConfig  # noqa: E402
from engine.models.huggingface import load_pretrained, save_pretrained  # noqa: E402
from engine.models.initialization import initialize  # noqa: E402
from engine.models.transformer import Transformer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPES = [
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=2, n_heads=4, n_kv_heads=2,
                intermediate_size=96, max_seq_len=64),
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=3, n_heads=4, n_kv_heads=4,
                intermediate_size=96, max_seq_len=64, tie_embeddings=True, rope_theta=5e5),
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=2, n_heads=4, n_kv_heads=2,
                intermediate_size=96, max_seq_len=64, window=7),
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=2, n_heads=4, n_kv_heads=2,
                intermediate_size=96, max_seq_len=64, qkv_bias=True, end_token=7),
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=2, n_heads=4, n_kv_heads=2, head_size=24,
                intermediate_size=96, max_seq_len=64, qk_norm=True, tie_embeddings=True),
    ModelConfig(vocab_size=300, hidden_size=64, n_layers=2, n_heads=4, n_kv_heads=2, head_size=8,
                intermediate_size=96, max_seq_len=64),
]  # fmt: skip
NAMES = ["untied", "tied", "window", "qwen2", "qwen3", "narrow heads"]


def model_of(config: ModelConfig, seed: int = 0) -> Transformer:
    model = Transformer(config)
    initialize(model, seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases that do nothing would prove nothing
            parameter.data += torch.rand(parameter.shape, generator=generator)
    return model.eval()


def write(directory: Path, config: ModelConfig) -> Transformer:
    model = model_of(config)
    directory.mkdir(exist_ok=True)
    save_pretrained(directory, config, dict(model.named_parameters()), None)
    return model


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_transformers_computes_the_same_logits_from_our_directory(
    config: ModelConfig, tmp_path: Path
) -> None:
    ours = write(tmp_path, config)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = theirs.eval()(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("config", SHAPES, ids=NAMES)
def test_directories_written_by_transformers_load(config: ModelConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kind = {"window": "Mistral", "qkv_bias": "Qwen2", "qk_norm": "Qwen3"}.get(
        next((name for name in ("window", "qkv_bias", "qk_norm") if getattr(config, name)), ""),
        "Llama",
    )
    theirs = getattr(transformers, f"{kind}ForCausalLM")(
        getattr(transformers, f"{kind}Config")(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size,
            num_hidden_layers=config.n_layers, num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads, intermediate_size=config.intermediate_size,
            max_position_embeddings=config.max_seq_len, rope_theta=config.rope_theta,
            rms_norm_eps=config.norm_eps, tie_word_embeddings=config.tie_embeddings,
            bos_token_id=config.end_token, eos_token_id=config.end_token, pad_token_id=None,
            **({"head_dim": config.head_dim} if config.head_size else {}),
            **({"sliding_window": config.window} if config.window else {}),
        )
    )  # fmt: skip
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")  # several files and an index
    loaded, state = load_pretrained(tmp_path)
    assert loaded == config
    ours = Transformer(loaded)
    ours.load_state_dict(state, strict=not config.tie_embeddings)
    tokens = torch.randint(0, 300, (2, 30), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.eval()(tokens), theirs.eval()(tokens).logits, atol=1e-4, rtol=0
        )


def test_what_transformers_does_not_know_loads_here(tmp_path: Path) -> None:
    config = SHAPES[2].model_copy(update={"parallel_block": True})
    ours = write(tmp_path, config)
    loaded, state = load_pretrained(tmp_path)
    assert loaded == config
    assert state.keys() == dict(ours.named_parameters()).keys()
    with pytest.raises(ValueError, match="opsuite"):
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_initial_weights_depend_on_seed_alone() -> None:
    first, again, other = (model_of(SHAPES[0], seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def giant_header(directory: Path) -> None:
    (directory / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def write_index(name: str) -> Callable[[Path], None]:
    def write_file(directory: Path) -> None:
        index = {"weight_map": {"lm_head.weight": name}}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))

    return write_file


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: (d / "config.json").unlink(), "no config.json"),
        (lambda d: (d / "config.json").write_text("{"), "not valid JSON"),
        (lambda d: (d / "config.json").write_text("[" * 100_000), "not valid JSON"),
        (lambda d: (d / "config.json").write_text("[]"), "not a JSON object"),
        (lambda d: (d / "config.json").write_bytes(b"\xff\xfe{}"), "not valid JSON"),
        (lambda d: (d / "model.safetensors").unlink(), "no weights"),
        (truncate, "corrupt"),
        (giant_header, "corrupt"),
        (edit_config(architectures=["GPT2LMHeadModel"]), "architecture"),
        (edit_config(architectures=None), "architecture"),
        (edit_config(hidden_act="gelu"), "hidden_act"),
        (edit_config(rope_scaling={"rope_type": "yarn"}), "rope_scaling"),
        (edit_config(rope_scaling={"type": "linear", "factor": 4.0}), "rope_scaling"),
        (edit_config(architectures=["Qwen2ForCausalLM"], use_sliding_window=True,
                     sliding_window=8, max_window_layers=1), "layer_types"),
        (edit_config(hidden_size=-1), "not usable"),
        (edit_config(hidden_size="wide"), "not usable"),
        (edit_config(num_attention_heads=0), "not usable"),
        (edit_config(num_hidden_layers=3), "missing"),
        (edit_config(num_hidden_layers=1), "no layer takes"),
        (edit_config(intermediate_size=64), "has shape"),
        (write_index("../../etc/passwd.safetensors"), "outside"),
        (write_index("absent.safetensors"), "no weights"),
    ],
)  # fmt: skip
def test_bad_directory_is_one_clear_error(
    damage: Callable[[Path], None], says: str, tmp_path: Path
) -> None:
    write(tmp_path, SHAPES[0])
    damage(tmp_path)
    with pytest.raises(OpsuiteError, match=says) as caught:
        load_pretrained(tmp_path)
    assert str(tmp_path) in caught.value.where


def test_a_window_that_transformers_ignores_is_ignored(tmp_path: Path) -> None:
    write(tmp_path, SHAPES[0])
    edit_config(sliding_window=8)(tmp_path)
    assert load_pretrained(tmp_path)[0].window == 0


def test_no_directory_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(OpsuiteError, match="no such model directory"):
        load_pretrained(tmp_path / "absent")
