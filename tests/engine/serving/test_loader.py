"""Model directories that cannot be served: one clear message each, and nothing of a traceback."""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING

import pytest

torch = pytest.importorskip("torch", reason="needs the engine extra")

from collectors.errors import OpsuiteError  # noqa: E402
from engine.models.tokenizer import load_tokenizer  # noqa: E402
from engine.serving.api.served_model import load_served_model  # noqa: E402
from engine.serving.loader import load_model  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def edit(name: str, **changes: object) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        path = directory / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return damage


def write(name: str, content: bytes) -> Callable[[Path], None]:
    def damage(directory: Path) -> None:
        (directory / name).write_bytes(content)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


def truncate(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def claim_a_huge_header(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**63) + path.read_bytes()[8:])


def claim_tensors_beyond_the_end(directory: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
    header = json.dumps({"lm_head.weight": entry}).encode()
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)


def drop_a_tensor(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = directory / "model.safetensors"
    state = load_file(path)
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, path)


def take_a_larger_tokenizer(directory: Path) -> None:
    tokenizer = load_tokenizer(directory / "tokenizer.json")
    tokenizer.add_tokens(["one token too many"])
    tokenizer.save(str(directory / "tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no such model directory"),
        (remove("config.json"), "no config.json"),
        (write("config.json", b"{"), "not valid JSON"),
        (write("config.json", b"[]"), "not a JSON object"),
        (edit("config.json", architectures=["GPT2LMHeadModel"]), "GPT2LMHeadModel"),
        (edit("config.json", num_attention_heads=5), "not usable"),
        (edit("config.json", intermediate_size=128), "config.json asks for"),
        (remove("model.safetensors"), "no weights"),
        (write("model.safetensors", b""), "weights are corrupt"),
        (truncate, "weights are corrupt"),
        (claim_a_huge_header, "weights are corrupt"),
        (claim_tensors_beyond_the_end, "weights are corrupt"),
        (drop_a_tensor, "weights are missing: model.layers.1.mlp.up_proj.weight"),
        (remove("tokenizer.json"), "no tokenizer"),
        (take_a_larger_tokenizer, "token ids up to 320, the model knows 320"),
        (write("tokenizer.json", b"{}"), "not a usable tokenizer"),
        (write("tokenizer.json", b"\xff\xfe"), "not a usable tokenizer"),
        (write("generation_config.json", b"nonsense"), "not usable"),
        (edit("generation_config.json", eos_token_id="end"), "no token id"),
    ],
)
def test_damaged_directories(
    model_directory: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    directory = tmp_path / "tiny"
    shutil.copytree(model_directory, directory)
    damage(directory)
    with pytest.raises(OpsuiteError, match=message) as caught:
        load_served_model(directory, name=None, max_len=None)
        load_model(directory, torch.device("cpu"))
    assert str(directory) in caught.value.where
    assert "Traceback" not in str(caught.value)


def test_a_whole_directory_loads(model_directory: Path) -> None:
    assert load_served_model(model_directory, name=None, max_len=None).end_tokens == {0}
    model = load_model(model_directory, torch.device("cpu"))
    assert model.lm_head.weight.dtype is torch.float32
