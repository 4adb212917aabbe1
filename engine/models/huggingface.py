"""Models as Hugging Face directories: ``config.json``, safetensors weights, ``tokenizer.json``.

Nothing in such a directory is executed: ``auto_map`` and pickled weights are ignored.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from collectors.errors import ConfigError, DataError, UsageError
from engine.models.config import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_JSON_BYTES = 64 << 20
_MAX_FILE_BYTES = 5 << 30
_LLAMA, _MISTRAL = "LlamaForCausalLM", "MistralForCausalLM"
_QWEN2, _QWEN3 = "Qwen2ForCausalLM", "Qwen3ForCausalLM"
_KNOWN = (_LLAMA, _MISTRAL, _QWEN2, _QWEN3)
_PARALLEL = "OpsuiteParallelForCausalLM"
_END_OF_TEXT = "<|endoftext|>"


def save_pretrained(
    directory: Path, config: ModelConfig, state: Mapping[str, Tensor], tokenizer_json: str | None
) -> None:
    """Write a directory that ``transformers`` loads as a Llama, or as a Mistral where attention has
    a window; what has parallel blocks only opsuite loads.

    Args:
        directory: exists already; whoever publishes it renames it when it is whole.
        state: whole tensors under Hugging Face's names.
        tokenizer_json: content of ``tokenizer.json``; None leaves the tokenizer out.

    Raises:
        OSError: the disk refused.
    """
    _save_weights(directory, config, state)
    save_description(directory, config, tokenizer_json)


def save_description(directory: Path, config: ModelConfig, tokenizer_json: str | None) -> None:
    """Write all of such a directory but the weights.

    Raises:
        OSError: the disk refused.
    """
    _write_json(directory / "config.json", _config_to_json(config))
    special = {"bos_token_id": config.end_token, "eos_token_id": config.end_token}
    _write_json(directory / "generation_config.json", special)
    if tokenizer_json is not None:
        (directory / "tokenizer.json").write_text(tokenizer_json, encoding="utf-8")
        end = _token_text(tokenizer_json, config.end_token)
        _write_json(
            directory / "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": end,
                "eos_token": end,
                "model_max_length": config.max_seq_len,
                "clean_up_tokenization_spaces": False,
            },
        )


def load_pretrained(directory: Path) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Read a Llama-family model: its shape, and whole tensors under Hugging Face's names.

    Raises:
        UsageError: the directory is no model directory.
        DataError: a file in it is corrupt, or of a model that opsuite cannot run.
    """
    config = load_config(directory)
    state: dict[str, Tensor] = {}
    for path in _weight_files(directory):
        state.update(_read_safetensors(path))
    if config.tie_embeddings:
        state.pop("lm_head.weight", None)
    _check_shapes(directory, config, state)
    return config, state


def load_config(directory: Path) -> ModelConfig:
    """Read ``config.json`` alone."""
    path = directory / "config.json"
    if not directory.is_dir():
        raise UsageError(
            "no such model directory",
            where=str(directory),
            remedy="give a directory with config.json, *.safetensors and tokenizer.json",
        )
    if not path.is_file():
        raise UsageError(
            "not a model directory: it has no config.json",
            where=str(directory),
            remedy="give a directory with config.json, *.safetensors and tokenizer.json",
        )
    return _config_from_json(_read_json(path), path)


def _config_to_json(config: ModelConfig) -> dict[str, Any]:
    return {
        **_kind(config),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": config.end_token,
        "eos_token_id": config.end_token,
        "dtype": "float32",
        "torch_dtype": "float32",
    }


def _kind(config: ModelConfig) -> dict[str, Any]:
    """A Llama; with a window, a Mistral; a Qwen by its heads; else none that others know."""
    of_qwen = config.qkv_bias or config.qk_norm
    if config.parallel_block or (config.window and of_qwen) or (config.qkv_bias and config.qk_norm):
        return {
            "architectures": [_PARALLEL],
            "model_type": "opsuite",
            "sliding_window": config.window or None,
            "parallel_block": config.parallel_block,
            "qkv_bias": config.qkv_bias,
            "qk_norm": config.qk_norm,
        }
    if config.qkv_bias:
        return {"architectures": [_QWEN2], "model_type": "qwen2"}
    if config.qk_norm:
        return {"architectures": [_QWEN3], "model_type": "qwen3"}
    if config.window:
        name = {"architectures": [_MISTRAL], "model_type": "mistral"}
        return name | {"sliding_window": config.window}
    return {"architectures": [_LLAMA], "model_type": "llama"}


def _config_from_json(data: dict[str, Any], path: Path) -> ModelConfig:
    _require_supported(data, path)
    rope = data.get("rope_parameters") or {}
    try:
        config = ModelConfig(
            vocab_size=data["vocab_size"],
            hidden_size=data["hidden_size"],
            n_layers=data["num_hidden_layers"],
            n_heads=data["num_attention_heads"],
            n_kv_heads=data.get("num_key_value_heads") or data["num_attention_heads"],
            intermediate_size=data["intermediate_size"],
            max_seq_len=data["max_position_embeddings"],
            rope_theta=data.get("rope_theta", rope.get("rope_theta", 10000.0)),
            norm_eps=data["rms_norm_eps"],
            tie_embeddings=data.get("tie_word_embeddings", False),
            window=_window(data),
            head_size=_head_size(data),
            end_token=_end_token(data),
            **_features(data),
        )
    except KeyError as missing:
        raise DataError(f"the model's config lacks {missing}", where=str(path)) from None
    except (ValueError, ConfigError) as error:
        raise DataError(f"the model's config is not usable: {error}", where=str(path)) from None
    return config


def _features(data: dict[str, Any]) -> dict[str, bool]:
    """What the architecture has beside a Llama's."""
    [architecture] = data["architectures"]
    if architecture == _PARALLEL:
        own = ("parallel_block", "qkv_bias", "qk_norm")
        return {name: bool(data.get(name, name == "parallel_block")) for name in own}
    return {"qkv_bias": architecture == _QWEN2, "qk_norm": architecture == _QWEN3}


def _window(data: dict[str, Any]) -> int:
    """Llamas have none, whatever they name; Qwens use theirs only if they say so, and not in the
    first layers (``max_window_layers``)."""
    kind = data["architectures"][0]
    qwen = kind in (_QWEN2, _QWEN3)
    if kind == _LLAMA or (qwen and not data.get("use_sliding_window")):
        return 0
    if qwen and not data.get("layer_types") and _full_layers(data):
        return 0  # all of them: a mixture is refused
    return data.get("sliding_window") or 0


def _full_layers(data: dict[str, Any]) -> int:
    """The first layers of a Qwen, which attend to all."""
    return min(int(data.get("max_window_layers", 28)), int(data.get("num_hidden_layers", 0)))


def _head_size(data: dict[str, Any]) -> int:
    """0 where it follows from the width."""
    size = data.get("head_dim") or 0
    return 0 if size * data["num_attention_heads"] == data["hidden_size"] else size


def _end_token(data: dict[str, Any]) -> int:
    """The first, where there are several."""
    end = data.get("eos_token_id")
    end = end[0] if isinstance(end, list) and end else end
    return end if isinstance(end, int) and 0 <= end < data["vocab_size"] else 0


def _token_text(tokenizer_json: str, token: int) -> str:
    """What a tokenizer calls one of its special tokens."""
    try:
        added = json.loads(tokenizer_json).get("added_tokens", [])
        return next(str(each["content"]) for each in added if each["id"] == token)
    except (ValueError, AttributeError, KeyError, TypeError, StopIteration):
        return _END_OF_TEXT


def _require_supported(data: dict[str, Any], path: Path) -> None:
    architectures = data.get("architectures") or []
    if architectures not in [[name] for name in (*_KNOWN, _PARALLEL)]:
        raise DataError(
            f"cannot run a model of architecture {architectures or 'unknown'}",
            where=str(path),
            remedy=f"give a model whose architecture is one of: {', '.join(_KNOWN)}",
        )
    rope = data.get("rope_parameters") or data.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    refused = {
        "hidden_act": data.get("hidden_act", "silu") != "silu",
        "attention_bias": architectures != [_QWEN2] and bool(data.get("attention_bias")),
        "layer_types": _several_kinds(data),
        "mlp_bias": bool(data.get("mlp_bias")),
        "rope_scaling": rope_type != "default",
    }
    for key, unsupported in refused.items():
        if unsupported:
            raise DataError(f"the model's {key} is not supported", where=str(path))


def _several_kinds(data: dict[str, Any]) -> bool:
    """Whether some layers attend to a window and some to all."""
    if kinds := set(data.get("layer_types") or ()):
        return len(kinds) > 1
    if data["architectures"][0] not in (_QWEN2, _QWEN3) or not data.get("use_sliding_window"):
        return False
    return 0 < _full_layers(data) < int(data.get("num_hidden_layers", 0))


def _weight_files(directory: Path) -> list[Path]:
    index = directory / _INDEX
    if not index.is_file():
        return [directory / WEIGHTS]
    names = _read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise DataError("the weight index names no files", where=str(index))
    files = sorted({str(name) for name in names.values()})
    for name in files:
        if "/" in name or "\\" in name or not name.endswith(".safetensors"):
            raise DataError(f"the weight index names a file outside: {name!r}", where=str(index))
    return [directory / name for name in files]


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(
            "the model has no weights", where=str(path), remedy="fetch the missing file"
        )
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise DataError(
            f"the weights are corrupt: {error}",
            where=str(path),
            remedy="fetch the file again, or use an earlier checkpoint",
        ) from None


def model_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Of a model's whole tensors, by Hugging Face's names."""
    import torch

    from engine.models.transformer import Transformer

    with torch.device("meta"):
        return {n: tuple(p.shape) for n, p in Transformer(config).named_parameters()}


def _check_shapes(directory: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    expected = model_shapes(config)
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise DataError(f"weights are missing: {_some(missing)}", where=str(directory))
    surplus = sorted(found.keys() - expected.keys())
    if surplus:
        raise DataError(f"weights that no layer takes: {_some(surplus)}", where=str(directory))
    for name, shape in expected.items():
        if found[name] != shape:
            raise DataError(
                f"{name} has shape {found[name]}, config.json asks for {shape}",
                where=str(directory),
            )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _save_weights(directory: Path, config: ModelConfig, state: Mapping[str, Tensor]) -> None:
    """In one file, or in several with an index, so that few tensors are in memory at once."""
    names = [name for name in state if not (config.tie_embeddings and name == "lm_head.weight")]
    files = _spread(names, config)
    if len(files) == 1:
        _save_file({name: state[name] for name in files[0]}, directory / WEIGHTS)
        return
    index: dict[str, str] = {}
    total = 0
    for number, some in enumerate(files, 1):
        file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        tensors = {name: state[name] for name in some}
        _save_file(tensors, directory / file)
        index |= dict.fromkeys(some, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    _write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _spread(names: Sequence[str], config: ModelConfig) -> list[list[str]]:
    """Which names go into one file: decided before any tensor is read."""
    shapes = model_shapes(config)
    files: list[list[str]] = [[]]
    filled = 0
    for name in names:
        nbytes = 4 * math.prod(shapes[name])
        if filled and filled + nbytes > _MAX_FILE_BYTES:
            files.append([])
            filled = 0
        files[-1].append(name)
        filled += nbytes
    return files


def _save_file(tensors: Mapping[str, Tensor], path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    try:
        save_file(whole, path, metadata={"format": "pt"})
    except SafetensorError as error:  # it wraps the operating system's error in text
        raise OSError(_errno_in(str(error)), str(error), str(path)) from error


def _errno_in(text: str) -> int:
    """The number in Rust's "... (os error 28)"; EIO where there is none."""
    import errno
    import re

    match = re.search(r"os error (\d+)", text)
    return int(match[1]) if match else errno.EIO


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise DataError("larger than any model's", where=str(path))
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise DataError("not a JSON object", where=str(path))
    return data
